"""A crowd's descriptors are those of its followers' connections at that moment, whoever came, left or was lost."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import pytest

from gateway.fanout import broadcast as module
from gateway.fanout.broadcast import GATHERED, Broadcast
from gateway.fanout.crowd import Crowd
from gateway.fanout.uring import BrokenOff, NoUring


class Connection:
    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.sent = b""
        self.takes: int | Exception = 1 << 30

    def fileno(self) -> int:
        return self.fd

    def send(self, data: bytes) -> int:
        if isinstance(self.takes, Exception):
            raise self.takes
        self.sent += data[: self.takes]
        return min(len(data), self.takes)


class Follower:
    def __init__(self) -> None:
        self.spilled = b""
        self.failed = False
        self.fault: Exception | None = None

    def spill(self, rest: bytes | memoryview) -> None:
        if self.fault is not None:
            raise self.fault
        self.spilled += rest

    def fail(self) -> None:
        self.failed = True


class Sends:
    """In the place of io_uring: the socket 9 takes two bytes."""

    def __init__(self) -> None:
        self.sent: list[tuple[list[int], bytes | list[bytes]]] = []
        self.closed = False

    def send(self, fds: array[int], data: bytes) -> dict[int, int]:
        return self._send(fds, data)

    def send_each(self, fds: array[int], frames: Sequence[bytes]) -> dict[int, int]:
        return self._send(fds, list(frames))

    def _send(self, fds: array[int], sent: bytes | list[bytes]) -> dict[int, int]:
        self.sent.append((list(fds), sent))
        return {place: 2 for place, fd in enumerate(fds) if fd == 9}

    def close(self) -> None:
        self.closed = True


class Broken:
    """In the place of an io_uring that fails on its way."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def send(self, fds: array[int], data: bytes) -> dict[int, int]:
        raise self.error

    def send_each(self, fds: array[int], frames: Sequence[bytes]) -> dict[int, int]:
        raise self.error

    def close(self) -> None: ...


def descriptors(crowd: Crowd) -> tuple[list[Any], list[int]]:
    pairs, fds = crowd.descriptors
    return [follower for follower, _ in pairs], list(fds)


def joined(crowd: Crowd, *fds: int) -> list[tuple[Any, Any]]:
    members = [(Follower(), Connection(fd)) for fd in fds]
    for follower, connection in members:
        crowd.join(cast("Any", follower), cast("Any", connection))
    return members


def test_whoever_comes_leaves_or_is_lost_is_noticed() -> None:
    crowd = Crowd()
    (first, _), (second, _), (third, _) = joined(crowd, 4, 5, 6)
    assert descriptors(crowd) == ([first, second, third], [4, 5, 6])
    assert crowd.leave(second, 7) == 7
    assert crowd.leave(second, 7) is None
    assert descriptors(crowd) == ([first, third], [4, 6])
    ((fourth, _),) = joined(crowd, 7)
    assert descriptors(crowd) == ([first, third, fourth], [4, 6, 7])


def test_whoever_has_left_is_not_kept_in_memory() -> None:
    crowd = Crowd()
    ((first, _),) = joined(crowd, 4)
    assert descriptors(crowd) == ([first], [4])
    crowd.leave(first, 0)
    assert not crowd._pairs


async def test_what_one_of_many_sockets_does_not_take_is_spilled() -> None:
    sends, crowd = Sends(), Crowd()
    members = joined(crowd, 8, 9, 10)
    Broadcast(sends, many=3)(crowd, b"frame", 0)
    assert sends.sent == [([8, 9, 10], b"frame")]
    assert [follower.spilled for follower, _ in members] == [b"", b"ame", b""]
    assert not any(connection.sent for _, connection in members)


async def test_few_are_sent_to_one_by_one() -> None:
    sends, crowd = Sends(), Crowd()
    members = joined(crowd, 8, 9)
    Broadcast(sends, many=3)(crowd, b"frame", 0)
    assert not sends.sent
    assert [connection.sent for _, connection in members] == [b"frame", b"frame"]


async def test_once_it_is_closed_all_are_sent_to_one_by_one() -> None:
    sends, crowd = Sends(), Crowd()
    ((_, connection),) = joined(crowd, 8)
    broadcast = Broadcast(sends, many=1)
    broadcast.close()
    broadcast.close()
    broadcast(crowd, b"frame", 0)
    assert sends.closed
    assert (sends.sent, connection.sent) == ([], b"frame")


async def test_where_there_is_no_io_uring_it_says_why_and_does_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused() -> None:
        raise NoUring("Operation not permitted")

    monkeypatch.setattr(module, "Uring", refused)
    crowd = Crowd()
    ((_, connection),) = joined(crowd, 8)
    broadcast = Broadcast(many=1)
    with caplog.at_level(logging.INFO, "gateway.fanout.broadcast"):
        broadcast.open()
    broadcast(crowd, b"frame", 0)
    assert connection.sent == b"frame"
    assert "without io_uring: Operation not permitted." in caplog.text


FAULTS = [
    RuntimeError("Cannot call write() after write_eof()"),  # as uvloop's transports raise it
    TypeError("no bytes"),
    MemoryError(),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
async def test_a_follower_that_raises_is_ended_alone(fault: Exception) -> None:
    crowd = Crowd()
    members = joined(crowd, *range(9))
    members[0][0].fault, members[0][1].takes = fault, OSError()
    members[4][1].takes = fault
    members[8][0].fault, members[8][1].takes = fault, 2
    Broadcast()(crowd, b"frame", 0)
    assert [place for place, (follower, _) in enumerate(members) if follower.failed] == [0, 4, 8]
    assert all(connection.sent == b"frame" for follower, connection in members if not follower.failed)


async def test_one_that_raises_after_one_call_for_many_is_ended_alone() -> None:
    sends, crowd = Sends(), Crowd()
    members = joined(crowd, 9, 8, 9, 10)
    members[0][0].fault = RuntimeError("Cannot call write() after write_eof()")
    Broadcast(sends, many=3)(crowd, b"frame", 0)
    assert [follower.failed for follower, _ in members] == [True, False, False, False]
    assert members[2][0].spilled == b"ame"


async def test_after_a_broken_call_nobody_is_sent_twice_or_left_out() -> None:
    crowd = Crowd()
    members = joined(crowd, *range(8))
    broadcast = Broadcast(Broken(BrokenOff({1: 2}, 3, 5)), many=1)
    broadcast(crowd, b"frame", 0)
    assert [follower.spilled for follower, _ in members] == [b"", b"ame", *[b""] * 6]
    assert [follower.failed for follower, _ in members] == [False] * 3 + [True] * 2 + [False] * 3
    assert [connection.sent for _, connection in members] == [b""] * 5 + [b"frame"] * 3
    assert not broadcast.at_once, "it is not used again"
    broadcast(crowd, b"next", 0)
    assert [connection.sent for _, connection in members] == [b"next"] * 5 + [b"framenext"] * 3


async def test_a_call_with_an_unknown_outcome_ends_all_its_followers() -> None:
    crowd = Crowd()
    members = joined(crowd, 8, 9)
    Broadcast(Broken(OSError("no")), many=1)(crowd, b"frame", 0)
    assert all(follower.failed and not connection.sent for follower, connection in members)


async def test_frames_of_many_streams_go_out_in_one_call() -> None:
    sends, crowds = Sends(), [Crowd() for _ in range(4)]
    members = [joined(crowd, 8 + number)[0] for number, crowd in enumerate(crowds)]
    broadcast = Broadcast(sends, many=3)
    with broadcast.together():
        for number, crowd in enumerate(crowds):
            broadcast(crowd, b"frame %d" % number, 0)
        broadcast(crowds[2], b", more", 0)
        assert not sends.sent
    assert sends.sent == [([8, 9, 10, 11], [b"frame 0", b"frame 1", b"frame 2, more", b"frame 3"])]
    assert [follower.spilled for follower, _ in members] == [b"", b"ame 1", b"", b""]
    with broadcast.together():
        for crowd in crowds[:2]:
            broadcast(crowd, b"frame", 0)
    assert [connection.sent for _, connection in members] == [b"frame", b"frame", b"", b""], "they were too few"


async def test_what_is_large_is_not_gathered_unless_it_comes_second() -> None:
    sends, (first, second, third) = Sends(), (Crowd(), Crowd(), Crowd())
    (_, one), _, _ = joined(first, 8)[0], joined(second, 10), joined(third, 11)
    broadcast, large = Broadcast(sends, many=2), bytes(GATHERED + 1)
    with broadcast.together():
        broadcast(second, b"before", 0)
        broadcast(third, b"small", 0)
        broadcast(first, large, 0)
        broadcast(second, large, 0)
    assert one.sent == large
    assert sends.sent == [([10, 11], [b"before" + large, b"small"])]


async def test_who_leaves_meanwhile_was_given_what_was_gathered() -> None:
    sends, (crowd, other) = Sends(), (Crowd(), Crowd())
    (follower, _), _ = joined(crowd, 8)[0], joined(other, 10)
    broadcast = Broadcast(sends, many=2)
    with suppress(RuntimeError), broadcast.together():
        broadcast(crowd, b"frame", 0)
        broadcast(other, b"another", 0)
        assert crowd.leave(follower, 7) == 7
        raise RuntimeError("a fault of something else")
    assert sends.sent == [([8, 10], [b"frame", b"another"])]


async def test_a_broken_call_for_many_streams_is_mended_for_each() -> None:
    crowds = [Crowd() for _ in range(8)]
    members = [joined(crowd, number)[0] for number, crowd in enumerate(crowds)]
    broadcast = Broadcast(Broken(BrokenOff({1: 2}, 3, 5)), many=2)
    with broadcast.together():
        for number, crowd in enumerate(crowds):
            broadcast(crowd, b"frame %d" % number, 0)
    assert [follower.spilled for follower, _ in members] == [b"", b"ame 1", *[b""] * 6]
    assert [follower.failed for follower, _ in members] == [False] * 3 + [True] * 2 + [False] * 3
    assert [connection.sent for _, connection in members] == [b""] * 5 + [b"frame 5", b"frame 6", b"frame 7"]
    with broadcast.together():
        broadcast(crowds[0], b"next", 0)
        assert members[0][1].sent == b"next", "without io_uring nothing is gathered"


async def test_a_fault_of_the_house_ends_those_whose_tails_have_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a defect")

    broadcast, crowd = Broadcast(Sends(), many=2), Crowd()
    ((follower, _),) = joined(crowd, 8)
    monkeypatch.setattr(broadcast, "_send_gathered", fail)
    with broadcast.together():
        broadcast(crowd, b"frame", 0)
    assert follower.failed
