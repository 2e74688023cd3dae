"""The timer of all connections: one that fails is ended, alone."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import uvicorn

from gateway.wire.server import LOOKS, Server
from gateway.wire.transport import DirectProtocol


class Broken(DirectProtocol):
    """A connection whose every look fails."""

    def __init__(self) -> None:
        self.aborted = False

    def lapse(self, now: float) -> None:
        raise ZeroDivisionError

    def abort(self) -> None:
        self.aborted = True


async def test_a_connection_that_fails_ends_alone() -> None:
    server = Server(uvicorn.Config(lambda: None))
    both = [Broken(), Broken()]
    server.server_state.connections.update(both)
    await server.on_tick(10)
    assert all(one.aborted for one in both)


class Late(Broken):
    """One that has kept the server waiting."""

    def lapse(self, now: float) -> None:
        self.aborted = True


async def test_those_that_are_late_together_end_in_several_turns() -> None:
    server = Server(uvicorn.Config(lambda: None))
    all = [Late() for _ in range(3 * LOOKS)]
    server.server_state.connections.update(all)
    tick, counts = asyncio.ensure_future(server.on_tick(10)), [0]
    while not tick.done():
        await asyncio.sleep(0)
        counts.append(sum(one.aborted for one in all))
    assert counts[-1] == len(all)
    assert max(after - before for before, after in pairwise(counts)) <= LOOKS
