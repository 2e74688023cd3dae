"""Whoever opens very many connections has nobody else's wait for as many turns of the loop."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import ExitStack
from pathlib import Path

import uvloop

from gateway.wire.accepting import MOST, Accepting
from tests.servers import PATIENCE, serving, until

MANY = 2 * MOST
HEALTH = b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n"


async def _turns() -> int:
    """How many turns of a loop, which always has something else to do, it takes to accept MANY that wait."""
    made: list[asyncio.Protocol] = []

    class Connection(asyncio.Protocol):
        def connection_made(self, _: asyncio.BaseTransport) -> None:
            made.append(self)

    with ExitStack() as stack:
        sock = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=MANY))
        sock.setblocking(False)
        for _ in range(MANY):
            stack.enter_context(socket.create_connection(sock.getsockname()))
        server = await asyncio.get_running_loop().create_server(Accepting(Connection, [sock]), sock=sock, backlog=MANY)
        turns = 0
        while len(made) < MANY:
            turns += 1
            await asyncio.sleep(0)
        server.close()
    return turns


def test_a_busy_loop_accepts_many_connections_in_a_turn() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(_turns()) <= 2 + 4  # those that are accepted, and a few to begin with


async def test_connections_that_waited_together_are_all_served(database_url: str) -> None:
    with serving(database_url, "direct") as gateway:
        before, free = _descriptors(), threading.Event()
        gateway.app._database._loop.call_soon_threadsafe(free.wait, PATIENCE)
        clients = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(MANY)]
        for _, writer in clients:
            writer.write(HEALTH)
        free.set()
        async with asyncio.timeout(PATIENCE):
            answers = [await reader.readline() for reader, _ in clients]
        assert set(answers) == {b"HTTP/1.1 200 OK\r\n"}
        for _, writer in clients:
            writer.close()
        await until(lambda: _descriptors() <= before + 3)


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
