"""Never two owners at once: in simulated time, through pauses, cuts, restarts, drains and clocks that are wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.log.database import Database
from gateway.owner import rules
from gateway.owner.lives import Lives
from gateway.owner.rows import Key, Row
from gateway.owner.rules import Owned, Watch
from gateway.owner.store import Store
from tests.owner.simulation import Lost, World, story

STEPS = 2_000
ROW = Row("chat", "/chat/{id}")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("gateway.owner"), "disabled", True)


@contextmanager
def world(seed: int, machines: int = 3, leases: Sequence[float] = (1,)) -> Iterator[World]:
    made = World(seed, machines, leases)
    try:
        yield made
    finally:
        made.close()


STORIES = [(quarter / 4, rates) for quarter in range(100) for rates in ((1.02, 0.98), (0.98, 1.02), (1.0, 1.0))]


def told() -> None:
    """All stories. Raises Lost."""
    takeovers = late = 0
    for stopped, rates in STORIES:
        with world(0, 2) as made:
            story(made, stopped, rates)
            takeovers, late = takeovers + made.takeovers, late + made.late
    with world(0, 2) as made:
        story(made, 1.0, (1.0, 1.0), restart=True)
    assert takeovers > 100
    assert late > 100


def test_who_stood_still_for_any_time_writes_nothing_late() -> None:
    told()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 32), st.sampled_from([(1,), (1, 4)]))
def test_no_two_machines_write_in_epochs_that_overlap(seed: int, leases: Sequence[float]) -> None:
    with world(seed, leases=leases) as made:
        made.run(STEPS)


def test_the_simulation_shows_what_it_is_for() -> None:
    writes = takeovers = late = 0
    for seed in range(30):
        with world(seed) as made:
            made.run(STEPS)
            writes, takeovers, late = writes + made.writes, takeovers + made.takeovers, late + made.late
    assert writes > 300
    assert takeovers > 5
    assert late > 5


def _believe_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "believed", lambda sent, lease: sent + 1.5 * lease)


def _count_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Watch, "dead", lambda self: {life: s.beats for life, s in self._seen.items() if s.silent >= self.lease / 4}
    )


def _do_not_look_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lives, "holds", lambda self, life: life == self.life)


def _ignore_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lives, "same_process", lambda self: True)


def _take_from_the_living(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "own", lambda owned, taker, alive, draining, epoch: Owned(taker, epoch))


@pytest.mark.parametrize(
    "broken",
    [
        _believe_longer,
        _count_less,
        _do_not_look_again,
        _ignore_the_process,
        _take_from_the_living,
    ],
)
def test_each_rule_is_missed_when_it_is_broken(broken: object, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)  # type: ignore[operator]
    with pytest.raises(Lost):
        told()


async def test_sql_says_what_the_rules_say(database_url: str) -> None:
    """The same stories, to the database and to the rules."""
    chance = Random(19)
    async with Database(database_url, pool_size=2, statement_timeout=10) as database:
        store = Store(database, 60)
        lives: dict[int, int] = {}  # by its Machine
        alive, draining, beats = set[int](), set[int](), dict[int, int]()
        owned: dict[int, Owned] = {}
        latest = 0  # epoch
        for step in range(600):
            machine, key = chance.randrange(4), chance.randrange(6)
            digest = Key.of(ROW, b"%d" % key)
            life = lives.get(machine)
            match chance.choice(["own", "own", "own", "begin", "beat", "end", "owner", "back"]):
                case "begin":
                    app = f"app-{chance.randrange(2)}"
                    begun = await store.begin(UUID(int=machine), "http://x", None, app)
                    if begun != life:
                        alive.discard(life or 0)
                        lives[machine] = begun
                        alive.add(begun)
                        beats[begun] = 0
                case "beat" if life is not None:
                    leaves = chance.random() < 0.2
                    found = await store.beat(life, leaves)
                    assert (found.alive, set(found.lives)) == (life in alive, alive)
                    assert {each: beats[each] for each in alive} == {n: each.beats for n, each in found.lives.items()}
                    if found.alive:
                        beats[life] += 1
                        draining |= {life} if leaves else set()
                case "end" if life is not None:
                    number = chance.choice([None, beats[life], beats[life] - 1])
                    ended = life in alive and number in (None, beats[life])
                    assert await store.end(life, number) == ended
                    alive -= {life} if ended else set()
                case "own" if life is not None:
                    said = rules.own(owned.get(key), life, alive, draining, step)
                    before = owned.get(key)
                    answer = await store.own(digest, life)
                    assert (answer and answer[0].life) == (said and said.life)
                    if said is not None and answer is not None:
                        assert answer[1] == (said != before)
                        assert answer[2] == (before.life if before is not None and said != before else None)
                        assert said == before or answer[0].epoch > latest
                        latest = max(latest, answer[0].epoch)
                        owned[key] = answer[0]
                case "owner":
                    has = owned.get(key)
                    assert await store.owner(digest) == (has if has is not None and has.life in alive else None)
                case "back" if life is not None:
                    await store.give_back([digest.digest], life)
                    if key in owned and owned[key].life == life:
                        del owned[key]
        await store.close()


async def test_of_many_at_once_exactly_one_takes(database_url: str) -> None:
    async with Database(database_url, pool_size=12, statement_timeout=10) as database:
        store = Store(database, 60)
        lives = [await store.begin(UUID(int=n), "http://x", None, "app") for n in range(5)]
        for round_ in range(20):
            key = Key.of(ROW, b"contested")
            found = await asyncio.gather(*(store.own(key, life) for life in lives * 2))
            owners = {each[0] for each in found if each is not None}
            assert len(owners) == 1, round_
            assert sum(each is not None and each[1] for each in found) == 1
            (owner,) = owners
            await store.end(owner.life)
            lives[lives.index(owner.life)] = await store.begin(UUID(int=100 + round_), "http://x", None, "app")
        await store.close()
