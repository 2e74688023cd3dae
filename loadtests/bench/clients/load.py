"""Readers and writers as scenarios use them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from loadtests.bench.clients.program import Program
from loadtests.bench.lab import Lab
from loadtests.bench.peers.peer import Peer
from loadtests.bench.processes import Failed
from loadtests.bench.stats import Histogram

PATIENCE = 120.0


@dataclass(frozen=True)
class Read:
    """What readers have seen: since the mark, but for what is wrong and how far they are, which is since ever."""

    up: int
    events: int
    bytes: int
    reached: int
    gaps: int
    repeats: int
    lost: int
    recovered: int
    latency: Histogram
    recovery: Histogram

    @classmethod
    def parse(cls, line: dict[str, Any]) -> Read:
        numbers = {name: line[name] for name in cls.__annotations__ if name not in ("latency", "recovery")}
        return cls(latency=Histogram.parse(line["latency"]), recovery=Histogram.parse(line["recovery"]), **numbers)


@dataclass(frozen=True)
class Written:
    """What writers have had acknowledged since the mark; `written` is what they have sent since ever."""

    requests: int
    events: int
    seconds: float
    written: int
    behind: int
    latency: Histogram

    @classmethod
    def parse(cls, line: dict[str, Any]) -> Written:
        numbers = {name: line[name] for name in cls.__annotations__ if name != "latency"}
        return cls(latency=Histogram.parse(line["latency"]), **numbers)


class Readers:
    """SSE readers in one process, all connected."""

    def __init__(self, program: Program, count: int, runs: int) -> None:
        self._program = program
        self._each = count // runs

    async def mark(self) -> None:
        await self._program.ask("mark")

    async def stats(self) -> Read:
        return Read.parse(await self._program.ask("stats"))

    async def hurry(self) -> None:
        """Lets those who read slowly read as fast as they can."""
        await self._program.ask("hurry")

    async def all_have(self, written: int, patience: float = 60.0) -> Read:
        """Waits until every reader has every event of its run, and nothing twice. Raises Failed."""
        deadline = asyncio.get_running_loop().time() + patience
        while True:
            read = await self.stats()
            check(read, written * self._each, final=asyncio.get_running_loop().time() > deadline)
            if read.reached == written * self._each:
                return read
            await asyncio.sleep(0.05)


def check(read: Read, expected: int, *, final: bool) -> None:
    """Raises Failed when events were skipped, repeated, made up or, at the end, have not come."""
    if read.gaps or read.repeats:
        raise Failed(f"readers saw {read.gaps} gaps and {read.repeats} repeated events")
    if read.reached > expected or (final and read.reached < expected):
        raise Failed(f"readers have {read.reached} events of {expected}")


class Writers:
    """Keep-alive connections that POST."""

    def __init__(self, program: Program) -> None:
        self._program = program

    async def mark(self) -> None:
        await self._program.ask("mark")

    async def stats(self) -> Written:
        return Written.parse(await self._program.ask("stats"))

    async def stop(self) -> Written:
        """Sends no more, waits for the answers, and tells what was written in all."""
        return Written.parse(await self._program.ask("stop", PATIENCE))

    async def end(self) -> Written:
        """Waits for those that have an end of their own: `once`, `total`."""
        return Written.parse(await self._program.line(PATIENCE))


@asynccontextmanager
async def readers(
    lab: Lab,
    peer: Peer,
    count: int,
    runs: int,
    *,
    port: int | None = None,
    fallback: int = 0,
    base: int = 0,
    pace: int = 0,
) -> AsyncIterator[Readers]:
    """`count` readers spread evenly over the runs from `base` on, once all of them are connected.

    `fallback`: the port to go to when the server is lost; `pace`: bytes a second that each of them reads.
    """
    async with Program.start(
        lab.tool("readers"), port=port or peer.port, path=peer.subscribe, readers=count, runs=runs,
        fallback=fallback, base=base, pace=pace,
    ) as program:  # fmt: skip
        await program.line(PATIENCE)
        yield Readers(program, count, runs)


@asynccontextmanager
async def writers(lab: Lab, peer: Peer, connections: int, runs: int, **options: object) -> AsyncIterator[Writers]:
    """Writers that have begun. Options as in writers.c; `port` for another Machine than the peer's first."""
    given = {"port": peer.port, "path": peer.publish, **options}
    async with Program.start(lab.tool("writers"), connections=connections, runs=runs, **given) as program:
        yield Writers(program)


@asynccontextmanager
async def together(lab: Lab, peer: Peer, runs: int, **options: object) -> AsyncIterator[Writers]:
    """One writer to many runs, which has begun. Options as in together.c."""
    stream = peer.publish.removeprefix("/")
    async with Program.start(lab.tool("together"), port=peer.port, stream=stream, runs=runs, **options) as program:
        yield Writers(program)


async def create(lab: Lab, peer: Peer, runs: int) -> None:
    """Makes the runs, where a peer wants them made."""
    if not peer.creates:
        return
    async with Program.start(
        lab.tool("writers"), port=peer.port, path=peer.publish, connections=16, runs=runs, method="PUT", once=1
    ) as program:
        await program.line(PATIENCE)


async def catch_up(lab: Lab, peer: Peer, count: int, events: int) -> dict[str, Any]:
    """Reads run 0 from its start with `count` readers at once; the line that catchup.c prints."""
    async with Program.start(
        lab.tool("catchup"), port=peer.port, path=peer.publish.replace("%r", "0"), readers=count, events=events
    ) as program:
        line = await program.line(PATIENCE)
    if line["faults"]:
        raise Failed(f"{line['faults']} events came out of order, twice or not at all")
    return line
