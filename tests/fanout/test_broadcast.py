"""A crowd's descriptors are those of its followers' connections at that moment, whoever came, left or was lost."""

from __future__ import annotations

import logging
from array import array
from typing import Any, cast

import pytest

from gateway.fanout import broadcast as module
from gateway.fanout.broadcast import Broadcast, Crowd
from gateway.fanout.uring import NoUring


class Connection:
    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.sent = b""

    def fileno(self) -> int:
        return self.fd

    def send(self, data: bytes) -> int:
        self.sent += data
        return len(data)


class Follower:
    def __init__(self) -> None:
        self.spilled = b""

    def spill(self, rest: bytes) -> None:
        self.spilled += rest


class Sends:
    """In the place of io_uring: the socket 9 takes two bytes."""

    def __init__(self) -> None:
        self.sent: list[tuple[list[int], bytes]] = []
        self.closed = False

    def send(self, fds: array[int], data: bytes) -> dict[int, int]:
        self.sent.append((list(fds), data))
        return {place: 2 for place, fd in enumerate(fds) if fd == 9}

    def close(self) -> None:
        self.closed = True


def descriptors(crowd: Crowd) -> tuple[list[Any], list[int]]:
    followers, fds = crowd.descriptors
    return list(followers), list(fds)


def joined(crowd: Crowd, *fds: int) -> list[tuple[Any, Any]]:
    members = [(Follower(), Connection(fd)) for fd in fds]
    for follower, connection in members:
        crowd.join(cast("Any", follower), cast("Any", connection))
    return members


def test_whoever_comes_leaves_or_is_lost_is_noticed() -> None:
    crowd = Crowd()
    (first, lost), (second, _), (third, _) = joined(crowd, 4, 5, 6)
    assert descriptors(crowd) == ([first, second, third], [4, 5, 6])
    assert crowd.leave(second)
    assert not crowd.leave(second)
    assert descriptors(crowd) == ([first, third], [4, 6])
    ((fourth, _),) = joined(crowd, 7)
    assert descriptors(crowd) == ([first, third, fourth], [4, 6, 7])
    lost.fd = -1  # another connection may have 4 from here on, and this follower has not left yet
    Crowd.lost += 1
    assert descriptors(crowd) == ([first, third, fourth], [-1, 6, 7])


def test_whoever_has_left_is_not_kept_in_memory() -> None:
    crowd = Crowd()
    ((first, _),) = joined(crowd, 4)
    assert descriptors(crowd) == ([first], [4])
    crowd.leave(first)
    assert not crowd._followers


def test_many_are_sent_to_at_once_and_what_one_does_not_take_is_spilled() -> None:
    sends, crowd = Sends(), Crowd()
    members = joined(crowd, 8, 9, 10)
    Broadcast(sends, many=3)(crowd, b"frame")
    assert sends.sent == [([8, 9, 10], b"frame")]
    assert [follower.spilled for follower, _ in members] == [b"", b"ame", b""]
    assert not any(connection.sent for _, connection in members)


def test_few_are_sent_to_one_by_one() -> None:
    sends, crowd = Sends(), Crowd()
    members = joined(crowd, 8, 9)
    Broadcast(sends, many=3)(crowd, b"frame")
    assert not sends.sent
    assert [connection.sent for _, connection in members] == [b"frame", b"frame"]


def test_once_it_is_closed_all_are_sent_to_one_by_one() -> None:
    sends, crowd = Sends(), Crowd()
    ((_, connection),) = joined(crowd, 8)
    broadcast = Broadcast(sends, many=1)
    broadcast.close()
    broadcast.close()
    broadcast(crowd, b"frame")
    assert sends.closed
    assert (sends.sent, connection.sent) == ([], b"frame")


def test_where_there_is_no_io_uring_it_says_why_and_does_without(
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
    broadcast(crowd, b"frame")
    assert connection.sent == b"frame"
    assert "without io_uring: Operation not permitted." in caplog.text
