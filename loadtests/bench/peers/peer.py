"""What a peer is to the bench: a server that can be started, addressed, weighed and stopped."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from loadtests.bench.processes import Process, free_port

if TYPE_CHECKING:
    from loadtests.bench.lab import Lab


class Peer(ABC):
    """One server, fresh at each start. In the paths, `%r` is the number of the run, `%o` a reader's position."""

    name: ClassVar[str]
    title: ClassVar[str]
    publish: ClassVar[str]
    subscribe: ClassVar[str] = ""
    creates: ClassVar[bool] = False  # whether runs have to be made by PUT
    together: ClassVar[bool] = False  # whether appends to many runs can go in one request

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.port = 0

    @classmethod
    def missing(cls) -> str | None:
        """What is not installed on this machine, if anything."""
        return None

    @classmethod
    @abstractmethod
    def version(cls) -> str: ...

    @abstractmethod
    async def start(self) -> None:
        """Returns when it listens on `port`. Raises Failed."""

    @abstractmethod
    async def stop(self) -> None: ...

    @abstractmethod
    def pids(self) -> list[int]:
        """The processes whose CPU and memory, with all below them, are the server's."""

    def store_pids(self) -> list[int]:
        """The processes of a store of its own, as Postgres is the gateway's; none if it has none."""
        return []

    async def another(self) -> int:
        """The port of another process over the same store. A peer that is one process is both. Raises Failed."""
        return self.port

    async def crash_server(self) -> None:
        """Kills the server by SIGKILL and starts it again, for `port`. Raises Failed."""
        raise NotImplementedError

    async def crash_store(self) -> None:
        """Kills what keeps the events by SIGKILL, and starts it again over what it has kept. Raises Failed."""
        raise NotImplementedError


class Single(Peer):
    """A peer that is one command."""

    process: Process | None = None

    @abstractmethod
    async def command(self) -> list[str]:
        """The command line, for `port`."""

    async def start(self) -> None:
        self.port = free_port()
        self.process = await Process.start(await self.command(), self.lab.folder / f"{self.name}.log")
        await self.process.listening(self.port)

    async def stop(self) -> None:
        if self.process is not None:
            await self.process.stop()

    def pids(self) -> list[int]:
        assert self.process is not None, "it has been started"
        return [self.process.pid]


def python(module: str, port: int) -> list[str]:
    """The command of a peer that is an application of ours under uvicorn, served as the gateway is."""
    return [sys.executable, "-m", "loadtests.bench.peers.serve", module, str(port)]
