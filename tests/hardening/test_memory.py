"""What readers that read nothing cost in memory, and that it goes back to the system."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from gateway.process.memory import KEPT, Memory
from tests.machines import Machine
from tests.servers import PATIENCE

MB = 1_000_000
READERS = 100
EVENT = 8 * MB
ROOM = 64 * MB  # for what one append and one frame of it take, each a few times

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is looked at in /proc")


def memory(pid: int) -> tuple[int, int]:
    """Bytes of a process: now, and at most so far."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return tuple(int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


def deaf(port: int) -> socket.socket:
    """A reader that takes the head of its response, and no more than its socket does by itself."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    sock.sendall(b"GET /runs/r?offset=now&live=sse HTTP/1.1\r\nHost: h\r\n\r\n")
    return sock


async def until(done: Callable[[], Awaitable[bool]]) -> None:
    """Waits for what another process does. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        while not await done():  # noqa: ASYNC110  it tells nobody
            await asyncio.sleep(0.05)


async def test_a_large_event_is_held_once_for_all_who_do_not_read_it(database_url: str) -> None:
    async with (
        Machine.start(database_url, env={"GATEWAY_MAX_EVENT": str(EVENT + 10)}) as machine,
        httpx.AsyncClient(base_url=machine.url, headers={"content-type": "application/json"}) as http,
    ):

        async def all_are(state: str) -> bool:
            return f'run_gateway_followers{{state="{state}"}} {READERS}' in (await http.get("/metrics")).text

        async def it_is_given_back() -> bool:
            return memory(machine.pid)[0] < before + KEPT + ROOM / 4

        (await http.put("/runs/r")).raise_for_status()
        with ExitStack() as stack:
            for _ in range(READERS):
                stack.enter_context(deaf(machine.port))
            await until(lambda: all_are("following"))
            before, _ = memory(machine.pid)
            (await http.post("/runs/r", content=b'"' + b"x" * EVENT + b'"')).raise_for_status()
            await until(lambda: all_are("catching_up"))
            assert memory(machine.pid)[1] - before < 6 * EVENT + ROOM, "and not READERS times as much"
        await until(it_is_given_back)


def test_what_was_freed_goes_back() -> None:
    pieces = [bytes(100_000) for _ in range(2_000)]
    kept = pieces[::20]  # so that what is free lies between what is not
    mine = Memory()
    mine.give_back()
    pid = int(Path("/proc/self").resolve().name)
    full, _ = memory(pid)
    del pieces
    mine.give_back()
    assert memory(pid)[0] < full - 100 * MB, "although the process has not grown since the last look"
    assert len(kept) == 100
