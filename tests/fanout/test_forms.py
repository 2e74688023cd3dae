"""Followers that are given another form than the protocol's frames: written to by the tail, each in its form."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from gateway.fanout.crowd import MOST_WAITING
from gateway.fanout.follower import Direct, Follower, Signal
from gateway.fanout.hub import Hub
from gateway.protocol.batch import Batch, News
from tests.fanout.test_hub import EVENT, Log, hub_of


@dataclass(frozen=True)
class Shout:
    """Everything in capitals; nothing of what is `silent`."""

    heartbeat: bytes = b""
    silent: bytes = b""
    made: list[bytes] = field(default_factory=list, compare=False)

    def __call__(self, batch: Batch) -> bytes:
        self.made.append(batch.body)
        return batch.body.upper().replace(self.silent, b"") if self.silent else batch.body.upper()


@dataclass(frozen=True)
class Broken(Shout):
    """A form that nothing can be written in."""

    def __call__(self, batch: Batch) -> bytes:
        raise AssertionError("no such frame")


class Socket:
    """A connection that takes everything, or nothing while it is full."""

    def __init__(self) -> None:
        self.follower: Any = None
        self.sent = b""
        self.full = False
        self.aborted = False

    def send(self, data: bytes) -> int:
        if self.full:
            raise BlockingIOError
        self.sent += data
        return len(data)

    def write(self, data: bytes | memoryview) -> None:
        self.sent += bytes(data)
        self.follower.wake()

    def writable(self) -> bool:
        return not self.full

    def lost(self) -> bool:
        return False

    def abort(self) -> None:
        self.aborted = True


async def parked(hub: Hub, socket: Socket, form: Shout | None) -> tuple[Follower, Any]:
    """A follower that stands at the tail, and its next batch, which is awaited."""
    follower = Follower(hub, "run", cast(Direct, socket), form)
    await follower.begin(0)
    following = asyncio.ensure_future(follower.next())
    await asyncio.sleep(0)
    return follower, following


async def test_each_follower_is_sent_its_form() -> None:
    hub = hub_of(Log(0))
    sockets = [Socket() for _ in range(3)]
    shout = Shout()
    followers = [await parked(hub, socket, form) for socket, form in zip(sockets, (shout, None, Shout()), strict=True)]
    hub.ring(News("run", 1, 1, body=EVENT))
    assert sockets[0].sent == sockets[2].sent == b'11\r\n{"TOKEN":"HELLO"}\r\n'
    assert b"event: data" in sockets[1].sent and EVENT in sockets[1].sent
    assert shout.made == [EVENT], "equal forms are made once"
    assert hub.followers == {"following": 3, "catching_up": 0}
    assert hub.delivered == 3
    for follower, following in followers:
        following.cancel()
        follower.__exit__()
    assert hub.followers == {"following": 0, "catching_up": 0}


async def test_a_form_that_raises_ends_its_own_followers_alone() -> None:
    hub = hub_of(Log(0))
    sockets = [Socket() for _ in range(4)]
    forms = (Broken(), None, Shout(), Broken())
    followers = [await parked(hub, socket, form) for socket, form in zip(sockets, forms, strict=True)]
    hub.ring(News("run", 1, 1, body=EVENT))
    hub.ring(News("run", 2, 2, body=b"{}"))
    assert [socket.aborted for socket in sockets] == [True, False, False, True]
    assert [await asyncio.wait_for(followers[n][1], 10) for n in (0, 3)] == [Signal.OVER] * 2
    assert [followers[n][0].position for n in (0, 3)] == [0, 0], "law 3"
    assert sockets[1].sent.count(b"event: data") == 2
    assert sockets[2].sent == b'11\r\n{"TOKEN":"HELLO"}\r\n2\r\n{}\r\n'
    assert hub.tails["run"].position == 2
    for _, following in followers:
        following.cancel()


async def test_what_a_form_leaves_out_is_not_sent_and_is_passed() -> None:
    hub, socket = hub_of(Log(0)), Socket()
    follower, following = await parked(hub, socket, Shout(silent=EVENT.upper()))
    hub.ring(News("run", 1, 1, body=EVENT))
    hub.ring(News("run", 2, 2, body=b"{}"))
    assert socket.sent == b"2\r\n{}\r\n"
    follower.wake()
    assert follower.position == 2
    following.cancel()


async def test_at_the_end_of_its_stream_it_is_told_so() -> None:
    hub, socket = hub_of(Log(0)), Socket()
    _, following = await parked(hub, socket, Shout())
    hub.ring(News("run", 1, 1, body=b"{}", closed=True))
    batch = await asyncio.wait_for(following, 10)
    assert socket.sent == b"2\r\n{}\r\n"
    assert isinstance(batch, Batch) and batch.empty and batch.closed


async def test_a_stream_that_goes_ends_it() -> None:
    hub, socket = hub_of(Log(0)), Socket()
    _, following = await parked(hub, socket, Shout())
    hub.ring(News("run", 0, 0, deleted=True))
    assert await asyncio.wait_for(following, 10) is Signal.OVER


@pytest.mark.parametrize("heartbeat", [b"", b": on\n\n"])
async def test_its_heartbeat_is_its_own(heartbeat: bytes) -> None:
    hub, socket = hub_of(Log(0)), Socket()
    _, following = await parked(hub, socket, Shout(heartbeat))
    hub.tails["run"].beat(1)
    assert socket.sent == (b"6\r\n: on\n\n\r\n" if heartbeat else b"")
    following.cancel()


async def test_before_its_head_is_sent_it_is_not_written_to() -> None:
    hub, socket = hub_of(Log(0)), Socket()
    follower = Follower(hub, "run", cast(Direct, socket), Shout())
    await follower.begin(0)
    following = asyncio.ensure_future(follower.next(written=False))
    await asyncio.sleep(0)
    hub.ring(News("run", 1, 1, body=EVENT))
    assert await asyncio.wait_for(following, 10) == Batch(0, 1, EVENT, True, False)
    assert not socket.sent


async def test_a_follower_whose_socket_is_full_fetches_for_itself() -> None:
    hub, socket = hub_of(Log(0)), Socket()
    follower, following = await parked(hub, socket, Shout())
    socket.full = True
    for n in range(MOST_WAITING):
        hub.ring(News("run", n + 1, n + 1, body=EVENT))
    assert socket.sent == b'11\r\n{"TOKEN":"HELLO"}\r\n', "its transport has the frame that the socket did not take"
    assert follower.position == 1
    following.cancel()
