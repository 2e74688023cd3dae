"""Peers without HTTP: programs that put events into Postgres themselves, and measure themselves.

What they are told is what the HTTP peers are told: how many wait at once, over how many runs, how many at a time.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Any, ClassVar

from loadtests.bench.clients.program import Program
from loadtests.bench.peers.peer import Peer


class Direct(Peer):
    """A module below peers/ that prints one line of JSON when it has been told its database and its task."""

    module: ClassVar[str]
    publish = ""
    database = ""

    @classmethod
    def version(cls) -> str:
        return f"asyncpg {version('asyncpg')}"

    async def start(self) -> None:
        self.database = await self.lab.postgres.create()

    async def stop(self) -> None:
        if self.database:
            await self.lab.postgres.drop(self.database)

    def pids(self) -> list[int]:
        return []  # a client: what it uses is not a server's

    async def run(self, **options: object) -> dict[str, Any]:
        """The line that the program prints. Raises Failed."""
        seconds = self.lab.scale.seconds
        command = [sys.executable, "-m", f"loadtests.bench.peers.{self.module}"]
        async with Program.start(command, database=self.database, seconds=seconds, **options) as program:
            return await program.line(seconds * 3 + 30)


class Inserting(Direct):
    """One that is asked for appends, as scenarios/appends.py asks all others."""

    async def measure(self, connections: int, runs: int, batch: int) -> dict[str, float]:
        before = self.lab.postgres.cpu()
        line = await self.run(
            connections=connections, runs=runs, batch=batch, size=self.lab.scale.event, path=self.name
        )
        used = self.lab.postgres.cpu() - before
        return {**line, "store_us": used.total * 1e6 / max(line["per_s"] * self.lab.scale.seconds, 1)}


class Insert(Inserting):
    name = "insert"
    title = "asyncpg straight into the table, no HTTP"
    module = "insert_program"


class Flue(Inserting):
    name = "flue"
    title = "Flue's append path (a transaction per event, asyncpg)"
    module = "insert_program"


class Notify(Direct):
    name = "notify"
    title = "bare INSERT + NOTIFY → LISTEN callback"
    module = "notify_program"
