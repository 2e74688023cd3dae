"""A frame that takes many turns of the loop: whoever leaves, comes or fails meanwhile stands where its bytes end."""

from __future__ import annotations

import asyncio
import random
from array import array
from collections.abc import Sequence
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.fanout.broadcast import EACH, TURN, Broadcast
from gateway.fanout.crowd import Crowd
from gateway.fanout.uring import BrokenOff

FRAME = b"%04d;"


class Reader:
    """A follower and its connection in one; it takes what it likes, and raises as it likes."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.received = b""
        self.position = scene.tail
        self.began = scene.tail
        self.failed = False
        self.ended = False
        self.let_go = 0

    def send(self, data: bytes | memoryview) -> int:
        self.raise_perhaps()
        size = len(data) if self.scene.chance.random() < 0.9 else self.scene.chance.randrange(len(data))
        self.received += data[:size]
        if not size:
            raise BlockingIOError
        self.raise_perhaps()
        return size

    def spill(self, rest: bytes | memoryview) -> None:
        self.raise_perhaps()
        self.received += rest
        self.leave()  # it is full

    def fileno(self) -> int:
        return self.scene.readers.index(self)

    def wake(self) -> None:
        self.let_go += 1
        self.leave()

    def end(self) -> None:
        self.raise_perhaps()
        self.ended = True
        self.leave()

    def fail(self) -> None:
        self.failed = True
        self.leave()

    def raise_perhaps(self) -> None:
        if self.scene.faults and self.scene.chance.random() < 0.05:
            raise self.scene.chance.choice((RuntimeError, MemoryError, TypeError))

    def leave(self) -> None:
        stands = self.scene.crowd.leave(cast("Any", self), self.scene.tail)
        if stands is not None:
            self.position = stands

    def follow(self) -> None:
        """Has caught up with the tail, and joins it."""
        self.received += b"".join(FRAME % n for n in range(self.position, self.scene.tail))
        self.position = self.scene.tail
        self.scene.crowd.join(cast("Any", self), cast("Any", self))

    @property
    def owed(self) -> bytes:
        """What it has to have received, by where it stands."""
        return b"".join(FRAME % n for n in range(self.began, self.position))


class Scene:
    def __init__(self, seed: int, faults: bool) -> None:
        self.chance = random.Random(seed)
        self.faults = faults
        self.tail = 0
        self.crowd = Crowd()
        self.readers: list[Reader] = []
        self.broadcast = Broadcast(
            self if self.chance.random() < 0.5 else None,
            many=self.chance.choice((1, 3)),
            turn=self.chance.choice((1, 2 * EACH, 5 * EACH)),
            backlog=self.chance.choice((0, 20, 1000)),
        )

    def send(self, fds: array[int], data: bytes) -> dict[int, int]:
        """In the place of io_uring."""
        return self.send_each(fds, [data] * len(fds))

    def send_each(self, fds: array[int], frames: Sequence[bytes]) -> dict[int, int]:
        short: dict[int, int] = {}
        for place, (fd, data) in enumerate(zip(fds, frames, strict=True)):
            if self.faults and self.chance.random() < 0.02:
                raise BrokenOff(short, place, place)
            size = len(data) if self.chance.random() < 0.9 else self.chance.randrange(len(data))
            self.readers[fd].received += data[:size]
            if size < len(data):
                short[place] = size
        return short

    def close(self) -> None: ...

    def publish(self) -> None:
        self.tail += 1
        self.broadcast(self.crowd, FRAME % (self.tail - 1), self.tail - 1)

    async def step(self) -> None:
        what = self.chance.random()
        if what < 0.1:
            with self.broadcast.together():
                for _ in range(self.chance.randint(1, 4)):
                    self.publish()
                    if self.readers and self.chance.random() < 0.2:
                        self.chance.choice(self.readers).leave()
        elif what < 0.3:
            self.publish()
        elif what < 0.5:
            self.readers.append(Reader(self))
            self.readers[-1].follow()
        elif what < 0.6 and self.readers:
            self.chance.choice(self.readers).leave()
        else:
            await asyncio.sleep(0)
        for reader in self.readers:
            following = reader in set(cast("Any", self.crowd))
            if not following and not reader.failed:
                assert reader.received == reader.owed
                if not reader.ended and self.chance.random() < 0.3:
                    reader.follow()

    async def rest(self) -> None:
        for _ in range(20 * len(self.readers) + 20):
            await asyncio.sleep(0)
        assert not self.crowd.sendings


@settings(max_examples=300)
@given(seed=st.integers(0, 2**32), steps=st.integers(5, 120), faults=st.booleans())
def test_everybody_stands_where_its_bytes_end(seed: int, steps: int, faults: bool) -> None:
    async def play() -> None:
        scene = Scene(seed, faults)
        for _ in range(steps):
            await scene.step()
        scene.crowd.end()
        await scene.rest()
        for reader in scene.readers:
            if not reader.failed:
                assert reader.received == reader.owed
        assert not len(scene.crowd), "all have ended or failed"

    asyncio.run(play())


class Willing(Reader):
    def send(self, data: bytes | memoryview) -> int:
        self.received += data
        return len(data)


def crowd_of(scene: Scene, count: int) -> list[Reader]:
    for _ in range(count):
        scene.readers.append(Willing(scene))
        scene.readers[-1].follow()
    return scene.readers


async def test_frames_that_wait_go_out_together() -> None:
    scene = Scene(0, faults=False)
    scene.broadcast = Broadcast(turn=1)
    readers = crowd_of(scene, 5)
    for _ in range(100):
        scene.publish()
    assert [len(sending.due) for sending in scene.crowd.sendings] == [5, 5]
    await scene.rest()
    assert [reader.received for reader in readers] == [b"".join(FRAME % n for n in range(100))] * 5


async def test_when_too_much_waits_all_are_let_go_a_few_at_a_time() -> None:
    scene = Scene(0, faults=False)
    scene.broadcast = Broadcast(turn=1, backlog=10)
    readers = crowd_of(scene, 200)
    for _ in range(10):
        scene.publish()
    assert sum(sending.size for sending in scene.crowd.sendings) == 0, "their bytes are not kept"
    await asyncio.sleep(0)
    assert 0 < sum(reader.let_go for reader in readers) < 200
    await scene.rest()
    assert all(reader.let_go == 1 and (reader.position, reader.received) == (0, b"") for reader in readers)


@pytest.mark.parametrize("size", [100, 1 << 20, 10 << 20])
async def test_no_turn_of_the_loop_sends_more_than_it_may(size: int) -> None:
    """However many streams have something to send at the same time."""
    sent: list[int] = []

    class Counted(Reader):
        def send(self, data: bytes | memoryview) -> int:
            sent[-1] += len(data) + EACH
            return len(data)

    scene = Scene(0, faults=False)
    broadcast = Broadcast()
    crowds = [Crowd() for _ in range(4)]
    for crowd in crowds:
        for _ in range(5000 if size == 100 else 60):
            member = cast("Any", Counted(scene))
            crowd.join(member, member)
    frame = bytes(size)
    sent.append(0)
    for crowd in crowds:
        broadcast(crowd, frame, 0)
    while any(crowd.sendings for crowd in crowds):
        sent.append(0)
        await asyncio.sleep(0)
    members = sum(len(crowd) for crowd in crowds)
    assert sum(sent) == members * (size + EACH)
    assert max(sent) <= TURN + size + EACH


async def test_a_thousand_small_crowds_are_sent_to_in_several_turns() -> None:
    sent = [0]

    class Counted(Reader):
        def send(self, data: bytes | memoryview) -> int:
            sent[-1] += len(data) + EACH
            return len(data)

    scene = Scene(0, faults=False)
    broadcast = Broadcast()
    crowds = [Crowd() for _ in range(1_000)]
    for crowd in crowds:
        for _ in range(5):
            member = cast("Any", Counted(scene))
            crowd.join(member, member)
        broadcast(crowd, b"small", 0)
    while any(crowd.sendings for crowd in crowds):
        sent.append(0)
        await asyncio.sleep(0)
    assert sum(sent) == 5_000 * (5 + EACH)
    assert max(sent) <= TURN + 5 + EACH
