"""The queue of appends: whose turn it is, that order is kept, and that a request costs the same however many wait."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.log import queue as module
from gateway.log.appends import Entry, Waiting
from gateway.log.queue import Queue
from gateway.protocol.append import AppendRequest, Producer

JSON = "application/json"
PATIENCE = 10
PATHS = ("a", "b", "acme\x1fa", "acme\x1fb", "globex\x1fa")


def request(path: str, number: int, *, plain: bool = True, until: float = 1) -> Waiting:
    producer = None if plain else Producer(f"p{number}", 0, 0)
    return Waiting(AppendRequest(path, JSON, [b"%d" % number], producer=producer), lambda _: None, until)


def events(batch: dict[str, Entry]) -> dict[str, list[bytes]]:
    return {path: list(entry.events) for path, entry in batch.items()}


def test_plain_requests_of_a_stream_go_together() -> None:
    queue = Queue()
    for number in range(3):
        queue.put(request("a", number))
    assert events(queue.take()) == {"a": [b"0", b"1", b"2"]}
    assert queue.bytes == 0


def test_requests_of_producers_go_one_by_one() -> None:
    queue = Queue()
    for number in range(2):
        queue.put(request("a", number, plain=False))
    first = queue.take()
    assert events(first) == {"a": [b"0"]}
    assert not queue.ready, "the stream is in a batch"
    queue.settled(first)
    assert events(queue.take()) == {"a": [b"1"]}


def test_a_stream_with_many_requests_keeps_no_other_waiting() -> None:
    queue = Queue()
    for number in range(5):
        queue.put(request("hot", number, plain=False))
    queue.put(request("cold", 0))
    assert events(queue.take()) == {"cold": [b"0"], "hot": [b"0"]}


def test_tenants_take_turns_whatever_each_has_waiting() -> None:
    queue = Queue()
    for number in range(module.MOST_REQUESTS):
        queue.put(request(f"acme\x1f{number:04}", number))
    queue.put(request("globex\x1fa", 0))
    queue.put(request("mine", 0))
    first = queue.take()
    assert {"globex\x1fa", "mine"} <= set(first)
    assert len(first) == module.MOST_SHARED, "so that they do not wait for very much of another tenant's"
    assert len(queue.take()) == module.MOST_REQUESTS - module.MOST_SHARED + 2, "alone, a tenant has all of a batch"


def test_a_batch_has_its_limits() -> None:
    queue = Queue()
    for number in range(module.MOST_REQUESTS + 1):
        queue.put(request("a", number))
    first = queue.take()
    assert len(first["a"].events) == module.MOST_REQUESTS
    queue.settled(first)
    assert events(queue.take()) == {"a": [b"%d" % module.MOST_REQUESTS]}


def test_what_does_not_fit_into_a_batch_begins_the_next() -> None:
    def sized(path: str, size: int) -> Waiting:
        return Waiting(AppendRequest(path, JSON, [b"x" * size]), lambda _: None, 1)

    queue = Queue()
    for path, size in (("acme\x1fa", 3), ("globex\x1fa", 3), ("globex\x1fb", 10), ("acme\x1fb", 6)):
        for _ in range(2):
            queue.put(sized(path, size << 20))
    taken = []
    while batch := queue.take():
        taken.append([(path.replace("\x1f", " "), len(entry.body) >> 20) for path, entry in batch.items()])
        queue.settled(batch)
    assert taken == [
        [("acme a", 6)],
        [("globex a", 6)],
        [("acme b", 6)],
        [("globex b", 10)],
        [("acme b", 6)],
        [("globex b", 10)],
    ]


def test_what_was_held_goes_first_when_it_is_free() -> None:
    queue = Queue()
    queue.put(request("a", 1))
    queue.take()
    queue.put(request("a", 2))
    queue.hold("a")
    queue.put(request("a", 3))
    assert not queue.ready
    assert queue.held == ["a"]
    queue.release("a")
    assert events(queue.take()) == {"a": [b"1", b"2", b"3"]}


def test_a_batch_that_ends_leaves_a_stream_that_left_it_alone() -> None:
    """Its row was held: it may be in another batch by the time that its first batch ends."""
    queue = Queue()
    for path in "ab":
        queue.put(request(path, 1))
    first = queue.take()
    queue.hold("a")
    queue.release("a")
    second = queue.take()
    assert list(queue.under_way(first)) == ["b"]
    queue.settled(first)
    queue.put(request("a", 2))
    assert not queue.ready, "the second batch is under way"
    queue.settled(second)
    assert events(queue.take()) == {"a": [b"2"]}


def test_what_was_not_sent_in_time_is_taken_out() -> None:
    queue = Queue()
    queue.put(request("sent", 0, until=1))
    queue.take()
    queue.put(request("sent", 1, until=2))
    queue.put(request("ready", 2, until=3))
    assert [late.waiting.request.path for late in queue.expire(2)] == ["sent"]
    assert queue.earliest() == 3
    assert [late.waiting.request.path for late in queue.expire(3)] == ["ready"]
    assert (queue.ready, queue.bytes, queue.earliest()) == (False, 0, None)


class Turns(RuleBasedStateMachine):
    """Random puts, batches, held rows and endings, against a list of what each stream was given."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue()
        self.now = 0
        self.number = 0
        self.given: dict[str, list[bytes]] = {}  # and not sent, or given back
        self.batches: list[dict[str, Entry]] = []
        self.size = 0

    @rule(path=st.sampled_from(PATHS), plain=st.booleans())
    def put(self, path: str, plain: bool) -> None:
        self.number += 1
        waiting = request(path, self.number, plain=plain, until=self.now + PATIENCE)
        self.queue.put(waiting)
        self.given.setdefault(path, []).append(b"%d" % self.number)

    @rule()
    def take(self) -> None:
        batch = self.queue.take()
        assert list(batch) == sorted(batch)
        under_way = {path for other in self.batches for path in self.queue.under_way(other)}
        assert not under_way & set(batch), "no stream is in two batches"
        for path, entry in batch.items():
            given = self.given[path]
            assert entry.events == given[: len(entry.events)], "in the order in which they came"
            del given[: len(entry.events)]
        if batch:
            self.batches.append(batch)

    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        under_way = {path: entry for batch in self.batches for path, entry in self.queue.under_way(batch).items()}
        if under_way:
            path = data.draw(st.sampled_from(sorted(under_way)))
            self.queue.hold(path)
            self.given[path][:0] = under_way[path].events

    @rule(path=st.sampled_from(PATHS))
    def release(self, path: str) -> None:
        self.queue.release(path)

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        if self.batches:
            self.queue.settled(self.batches.pop(data.draw(st.integers(0, len(self.batches) - 1))))

    @rule(passed=st.integers(1, PATIENCE))
    def expire(self, passed: int) -> None:
        self.now += passed
        for late in self.queue.expire(self.now):
            assert late.waiting.until <= self.now
            self.given[late.waiting.request.path].remove(late.waiting.request.events[0])

    @invariant()
    def nothing_is_forgotten(self) -> None:
        held = set(self.queue.held)
        under_way = {path for batch in self.batches for path in self.queue.under_way(batch)}
        waiting = {path for path, given in self.given.items() if given}
        assert self.queue.ready == bool(waiting - held - under_way)
        assert self.queue.empty == (not waiting | under_way)
        assert bool(self.queue.bytes) == bool(waiting)


TestTurns = Turns.TestCase


def lines_run(work: Callable[[], None]) -> int:
    """How many lines of the queue's code are run: what costs time, without a clock."""
    count = 0

    def line(_: FrameType, event: str, __: object) -> Any:
        nonlocal count
        count += event == "line"
        return line

    def call(frame: FrameType, *_: object) -> Any:
        return line if frame.f_code.co_filename == module.__file__ else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_each_request_costs_the_same_however_many_wait() -> None:
    def drained(producers: int) -> float:
        queue = Queue()

        def work() -> None:
            for number in range(producers):
                queue.put(request("hot", number, plain=False))
            while queue.ready:
                queue.settled(queue.take())

        return lines_run(work) / producers

    assert drained(8_000) <= drained(10) * 1.1
