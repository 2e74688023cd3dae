"""Changes of runs are told once each, in whatever order transactions commit, and wherever a reader is cut off."""

from __future__ import annotations

import asyncio
import random
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from gateway.fanout.deadlines import Deadlines
from gateway.fanout.follower import Signal
from gateway.protocol.changes import Kind, Snapshot, Standing
from gateway.protocol.record import RunRecord
from gateway.runs.live_list import Change, Changes, LiveList, Look, Row, changes
from gateway.runs.queries import parse_list


@dataclass
class Runs:
    """Runs, and transactions that are given numbers as they begin and commit when they like."""

    rng: random.Random
    next: int = 100
    streams: int = 0
    running: dict[int, tuple[Kind, int]] = field(default_factory=dict)  # by transaction: what it does, and to which
    done: dict[int, list[tuple[Kind, int]]] = field(default_factory=dict)  # by stream: changes that have committed

    def begin(self) -> None:
        """A transaction that changes a run which nobody else is changing."""
        free = [stream for stream in self.done if stream not in {stream for _, stream in self.running.values()}]
        self.streams += 1
        kinds: list[tuple[Kind, int]] = [("created", self.streams)]
        for stream in free:
            last = self.done[stream][-1][0]
            if last in ("created", "cancelled"):
                kinds.append(("ended", stream))
            if last == "created":
                kinds.append(("cancelled", stream))
            if last != "removed":
                kinds.append(("removed", stream))
        self.running[self.next] = self.rng.choice(kinds)
        self.next += 1

    def commit(self) -> None:
        if self.running:
            transaction = self.rng.choice(list(self.running))
            kind, stream = self.running.pop(transaction)
            self.done.setdefault(stream, []).append((kind, transaction))

    def look(self, standing: Standing, most: int) -> Look:
        """As the database answers: rows whose last change is not seen by what was standing."""
        now = Standing(0, 0, Snapshot(self.next, frozenset(self.running)))
        rows = []
        for stream, done in sorted(self.done.items()):
            last = done[-1][1]
            if stream > standing.stream and not standing.base.sees(last):
                # What is removed is all that is left of a run that is removed.
                left = done[-1:] if done[-1][0] == "removed" else done
                rows.append(Row(stream, RunRecord(f"{stream}", "active", ""), left))
        return Look(rows[:most], now, len(rows) > most)


@pytest.mark.parametrize("seed", range(150))
def test_each_change_is_told_once_wherever_a_reader_is_cut(seed: int) -> None:
    rng = random.Random(seed)
    runs = Runs(rng)
    standing = Standing(0, 0, Snapshot(runs.next))
    heard: list[tuple[Kind, int]] = []

    def read() -> None:
        nonlocal standing
        found, end = changes(standing, runs.look(standing, rng.choice((1, 2, 5))))
        if found and rng.random() < 0.5:  # cut off behind a frame, which never ends between two changes of one run
            last = rng.choice(found)
            taken = [change for change in found if change.stream <= last.stream]
            heard.extend((change.kind, change.stream) for change in taken)
            standing = taken[-1].standing
        else:
            heard.extend((change.kind, change.stream) for change in found)
            standing = end

    for _ in range(120):
        rng.choice((runs.begin, runs.begin, runs.commit, runs.commit, read))()
    while runs.running:
        runs.commit()
    for _ in range(200):
        read()
    expected = {(kind, stream) for stream, done in runs.done.items() for kind, _ in done}
    removed = {stream for kind, stream in expected if kind == "removed"}
    assert len(heard) == len(set(heard)), "each change once"
    assert {each for each in expected if each[1] not in removed or each[0] == "removed"} <= set(heard) <= expected


def test_the_changes_of_one_look_end_where_it_was() -> None:
    runs = Runs(random.Random(1))
    for _ in range(3):
        runs.begin()
        runs.commit()
    before = Standing(0, 0, Snapshot(100))
    look = runs.look(before, 10)
    found, end = changes(before, look)
    assert found[-1].standing == end == look.now
    assert isinstance(found[0], Change) and found[0].standing.upto == look.now.base


async def test_a_reader_that_raises_keeps_no_other_from_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("a reader's fault")

    async def ask(tenant: str, standing: Standing, most: int) -> Look:
        return runs.look(standing, most)

    runs, before = Runs(random.Random(1)), Standing(0, 0, Snapshot(100))
    all = Changes(ask, Deadlines(lambda: 0.0), 60)
    with ExitStack() as stack:
        faulty, *others = (stack.enter_context(LiveList(all, "", parse_list(""))) for _ in range(10))
        for each in (faulty, *others):
            each.stand(before)
        monkeypatch.setattr(faulty, "wake", fail)
        waiting = [asyncio.ensure_future(each.next(before)) for each in others]
        await asyncio.sleep(0)
        runs.begin()
        runs.commit()
        all.ring("runs/1")
        async with asyncio.timeout(60):
            for given in await asyncio.gather(*waiting):
                assert not isinstance(given, Signal) and [change.kind for change in given[0]] == ["created"]
            assert await faulty.next(before) is Signal.OVER
