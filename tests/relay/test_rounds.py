"""Recordings append in rounds: one at a time, together, and further apart where a process is busy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

import pytest

from gateway.protocol.append import AppendRequest
from gateway.relay.reading import Reading
from gateway.relay.rounds import LONGEST, PATIENCE, TURNS, Append, Rounds, use


class Time:
    """A loop that turns, and a clock that moves, only when told to."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: list[tuple[float, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], object]) -> asyncio.Handle:
        return self.call_at(self.now, callback)

    def call_at(self, when: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        self.due.append((when, callback))
        return cast(asyncio.TimerHandle, Planned(self, (when, callback)))

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        for when, callback in sorted(self.due, key=lambda each: each[0]):
            if when <= self.now:
                self.due.remove((when, callback))
                callback()


class Planned:
    def __init__(self, loop: Time, what: tuple[float, Callable[[], object]]) -> None:
        self._loop = loop
        self._what = what

    def cancel(self) -> None:
        self._loop.due.remove(self._what)


class Log:
    """Takes note of what each round appends."""

    def __init__(self) -> None:
        self.rounds: list[list[str]] = []

    def submit(self, appends: Sequence[Append]) -> None:
        self.rounds.append([request.path for request, _ in appends])


def of(path: str) -> Callable[[], Append]:
    """An append to this path."""
    return lambda: (AppendRequest(path, None, []), lambda _: None)


def rounds_of(runs: float = 0.0, waits: float = 0.0) -> tuple[Rounds, Time, list[list[str]]]:
    """Rounds of a process that runs and waits for so much of the time, and what they have appended."""
    time, log = Time(), Log()
    rounds = Rounds(log.submit, use=lambda: (runs * time.now, waits * time.now))
    rounds.__dict__["_loop"] = time
    return rounds, time, log.rounds


def test_who_joins_in_one_turn_of_the_loop_is_in_one_round() -> None:
    rounds, time, appended = rounds_of()
    rounds.join(of("a"))
    rounds.join(of("b"))
    rounds.join(lambda: None)  # it has ended meanwhile
    assert not appended
    time.pass_by(0)
    assert appended == [["a", "b"]]


def test_the_next_round_begins_when_the_one_before_is_durable() -> None:
    rounds, time, appended = rounds_of()
    rounds.join(of("a"))
    time.pass_by(0)
    rounds.join(of("b"))
    time.pass_by(PATIENCE / 2)
    assert appended == [["a"]]
    rounds.landed(rounds.count)
    rounds.landed(rounds.count)
    time.pass_by(0)
    assert appended == [["a"], ["b"]]


def test_a_round_of_which_nobody_hears_holds_up_nobody() -> None:
    rounds, time, appended = rounds_of()
    rounds.join(of("a"))
    time.pass_by(0)
    rounds.join(of("b"))
    time.pass_by(PATIENCE)
    assert appended == [["a"], ["b"]]
    rounds.join(of("c"))
    rounds.landed(rounds.count - 1)  # at last; it is the other that is waited for
    time.pass_by(PATIENCE / 2)
    assert appended == [["a"], ["b"]]


class Coming(Reading):
    """What comes, as a test has it: paths for which something has, and whether somebody is to be told of more."""

    def __init__(self, rounds: Rounds) -> None:
        super().__init__()
        self.paths: list[str] = []
        self.most = 100  # that are read in one turn of the loop
        self.watched = False
        self.ring = rounds.reading.ring
        rounds.reading = self
        self._rounds = rounds

    def read(self) -> bool:
        for path in self.paths[: self.most]:
            self._rounds.join(of(path))
        del self.paths[: self.most]
        return not self.paths

    def watch(self) -> None:
        self.watched = True


def test_a_round_has_what_has_come_until_it_begins() -> None:
    rounds, time, appended = rounds_of()
    coming = Coming(rounds)
    coming.paths = ["a"]
    coming.ring()
    assert not appended
    coming.paths += ["b"]
    time.pass_by(0)
    assert appended == [["a", "b"]]


def test_a_round_waits_for_what_is_read_in_the_next_turns() -> None:
    rounds, time, appended = rounds_of()
    coming = Coming(rounds)
    coming.paths, coming.most = ["a", "b", "c"], 1
    coming.ring()
    for _ in range(2):
        time.pass_by(0)
        assert not appended
    time.pass_by(0)
    assert appended == [["a", "b", "c"]]


def test_a_round_does_not_wait_for_whoever_never_ends() -> None:
    rounds, time, appended = rounds_of()
    coming = Coming(rounds)
    coming.paths, coming.most = ["x"] * 1_000, 1
    coming.ring()
    for _ in range(20):
        time.pass_by(PATIENCE)
    assert len(appended) >= 2
    assert {len(each) for each in appended} == {TURNS}


def test_while_rounds_go_on_nobody_has_to_be_woken() -> None:
    rounds, time, appended = rounds_of()
    coming = Coming(rounds)
    coming.paths = ["a"]
    coming.ring()
    time.pass_by(0)
    assert not coming.watched
    coming.paths = ["b"]
    time.pass_by(PATIENCE)
    assert appended[1:] == [["b"]]
    assert not coming.watched
    time.pass_by(PATIENCE)
    assert coming.watched


def test_a_round_that_finds_nothing_is_none() -> None:
    rounds, time, appended = rounds_of()
    coming = Coming(rounds)
    coming.ring()
    time.pass_by(0)
    assert (appended, rounds.count, coming.watched) == ([], 0, True)


def test_one_recording_that_raises_keeps_no_other(caplog: pytest.LogCaptureFixture) -> None:
    rounds, time, appended = rounds_of()

    def broken() -> Append:
        raise MemoryError

    rounds.join(broken)
    rounds.join(of("a"))
    time.pass_by(0)
    assert appended == [["a"]]
    assert "it ends after GATEWAY_RELAY_SILENCE" in caplog.text


def test_after_a_pause_a_round_begins_immediately() -> None:
    rounds, time, appended = rounds_of(runs=0.9)
    for _ in range(100):
        rounds.join(of("x"))
        time.pass_by(LONGEST)
        rounds.landed(rounds.count)
    appended.clear()
    time.pass_by(LONGEST)
    rounds.join(of("a"))
    time.pass_by(0)
    assert appended == [["a"]]


def go_on(rounds: Rounds, time: Time, runs: float | None = None) -> None:
    """Many rounds, one every 10 ms. `runs`: for how much of the time the process does from now on."""
    if runs is not None:
        now, (ran, waited) = time.now, rounds._use()
        rounds._use = lambda: (ran + runs * (time.now - now), waited)
    for _ in range(1_000):
        rounds.join(of("x"))
        time.pass_by(0.01)
        rounds.landed(rounds.count)


@pytest.mark.parametrize(("runs", "waits"), [(0.9, 0.0), (0.3, 0.5)])
def test_rounds_of_a_busy_process_are_held_apart(runs: float, waits: float) -> None:
    rounds, time, _ = rounds_of(runs, waits)
    go_on(rounds, time)
    assert rounds.spacing == LONGEST
    go_on(rounds, time, 0.35)  # without a pause it would be three times that
    assert rounds.spacing == LONGEST
    go_on(rounds, time, 0.1)
    assert rounds.spacing == 0


@pytest.mark.parametrize(("runs", "waits"), [(0.3, 0.1), (0.05, 0.9)])
def test_who_is_not_busy_or_only_waits_has_nothing_to_save(runs: float, waits: float) -> None:
    rounds, time, _ = rounds_of(runs, waits)
    go_on(rounds, time)
    assert rounds.spacing == 0


def test_the_system_tells_how_much_a_process_runs() -> None:
    before = use()
    sum(range(2_000_000))
    assert use()[0] > before[0]
