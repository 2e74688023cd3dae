"""Peers of two programs: a store that keeps events on disk, and FastAPI before it, one process or several."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from abc import abstractmethod
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from loadtests.bench.lab import Lab
from loadtests.bench.peers.peer import Peer, python
from loadtests.bench.processes import Process, free_port


class Bridged(Peer):
    """The store's processes are weighed as Postgres is for the gateway: apart."""

    publish = "/runs/b%r"
    subscribe = "/runs/b%r"
    program: ClassVar[str]
    package: ClassVar[str]
    library: ClassVar[str]  # the Python module that speaks to it
    store_class: ClassVar[str]  # `module:name` below peers/

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=lab.folder))
        self.store_port = 0
        self.store: Process | None = None
        self.bridges: dict[int, Process] = {}

    @classmethod
    def executable(cls) -> str | None:
        return shutil.which(cls.program)

    @classmethod
    def missing(cls) -> str | None:
        if cls.executable() is None:
            return f"{cls.program} (Debian: apt install {cls.package})"
        if find_spec(cls.library) is None:
            return f"the Python module {cls.library} (pip install -e '.[load]')"
        return None

    @classmethod
    def version(cls) -> str:
        said = subprocess.run([str(cls.executable()), "--version"], capture_output=True, text=True, check=False)
        return f"{(said.stdout or said.stderr).strip()}; FastAPI {version('fastapi')}"

    @abstractmethod
    def store_command(self) -> list[str]:
        """The command line, for `store_port` and `folder`."""

    async def start(self) -> None:
        self.store_port = free_port()
        await self.start_store()
        self.port = await self.another()

    async def start_store(self) -> None:
        """Begins it over what it has kept in its folder. Raises Failed."""
        self.store = await Process.start(self.store_command(), self.lab.folder / f"{self.name}-store.log")
        await self.store.listening(self.store_port)

    async def another(self) -> int:
        return await self.start_bridge(free_port())

    async def start_bridge(self, port: int) -> int:
        env = {"BENCH_STORE": self.store_class, "BENCH_STORE_PORT": str(self.store_port)}
        log = self.lab.folder / f"{self.name}-{port}.log"
        self.bridges[port] = await Process.start(python("bridge_app", port), log, env=env)
        await self.bridges[port].listening(port)
        return port

    async def stop(self) -> None:
        for process in (*self.bridges.values(), self.store):
            if process is not None:
                await process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def pids(self) -> list[int]:
        return [process.pid for process in self.bridges.values()]

    def store_pids(self) -> list[int]:
        return [self.store.pid] if self.store is not None else []

    async def crash_server(self) -> None:
        await self.bridges[self.port].kill()
        await self.start_bridge(self.port)

    async def crash_store(self) -> None:
        assert self.store is not None, "it has been started"
        await self.store.kill()
        await self.start_store()
