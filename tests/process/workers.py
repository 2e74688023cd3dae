"""The worker processes of a Machine that has several: which they are, and which of them answers a connection."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx

from tests.machines import Machine

PATIENCE = 60.0


def workers(machine: Machine) -> list[int]:
    """The processes that serve now, as the log has named them; a replacement takes the place of the one that died."""
    latest: dict[str, int] = {}
    for number, pid in re.findall(r"worker (\d+) is process (\d+)", machine.log):
        latest[number] = int(pid)
    return [latest[number] for number in sorted(latest)]


def worker_of(machine: Machine, response: httpx.Response) -> int:
    """The process that holds the other end of this response's connection (Linux)."""
    port = response.extensions["network_stream"].get_extra_info("client_addr")[1]
    inode = _inode(local=machine.port, remote=port)
    return next(pid for pid in workers(machine) if f"socket:[{inode}]" in _descriptors(pid))


def alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return _state(pid) not in "ZX"
    except FileNotFoundError:
        return False


def stopped(pid: int) -> bool:
    """Whether SIGSTOP has had its effect."""
    return _state(pid) == "T"


async def until(condition: Callable[[], bool]) -> None:
    """Waits for processes, whose end nobody reports. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def children(pid: int) -> set[int]:
    """The processes that this one has started and that are alive."""
    found = {int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()}
    return {child for child in found if child != pid and _parent(child) == pid and alive(child)}


def _inode(local: int, remote: int) -> str:
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if [int(address.partition(":")[2], 16) for address in fields[1:3]] == [local, remote]:
            return fields[9]
    raise AssertionError(f"no connection from port {remote}")


def _descriptors(pid: int) -> set[str]:
    found = set[str]()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            found.add(os.readlink(path))
    return found


def _state(pid: int) -> str:
    return _stat(pid)[0]


def _parent(pid: int) -> int | None:
    try:
        return int(_stat(pid)[1])
    except FileNotFoundError:
        return None


def _stat(pid: int) -> list[str]:
    # After the name, which may hold spaces and brackets.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


@asynccontextmanager
async def gateway(database_url: str, count: int = 2, executed: bool = False, /, **env: str) -> AsyncIterator[Machine]:
    """`executed`: the workers are, too; else they are forks of the Machine."""
    env = {"GATEWAY_WORKERS": str(count), **env}
    async with Machine.start(database_url, env=env, executed=executed) as machine:
        pids = workers(machine)
        try:
            async with asyncio.timeout(PATIENCE):
                yield machine
        finally:
            pids += workers(machine)
            await machine.end()
            for pid in pids:  # what a test has stopped with SIGSTOP would stay for ever
                if alive(pid):
                    os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def connections_to_each(machine: Machine) -> AsyncIterator[dict[int, httpx.AsyncClient]]:
    """A client with one connection, kept alive, to each worker."""
    async with AsyncExitStack() as stack:
        clients: dict[int, httpx.AsyncClient] = {}
        while set(clients) != set(workers(machine)):
            client = await stack.enter_async_context(httpx.AsyncClient(base_url=machine.url, timeout=30))
            clients[worker_of(machine, await client.get("/health"))] = client
        yield clients
