"""The Machines, each between two proxies: clients come by way of `front`, and it goes to Postgres by way of `back`."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Protocol

from gateway.process.machine import MachineFailed
from loadtests.survival import schedule
from loadtests.survival.houses import House
from loadtests.survival.ledger import EXITS, Findings
from tests.machines import Machine
from tests.tools.clock import LIBRARY, Clock
from tests.tools.database import Database
from tests.tools.pgbouncer import PROGRAM, PgBouncer
from tests.tools.proxy import Proxy

START_PATIENCE = 60.0  # seconds for a process to come, when its Postgres may be away
SETTINGS = {
    "GATEWAY_HEARTBEAT": "2",
    "GATEWAY_LONG_POLL_TIMEOUT": "3",
    "GATEWAY_SSE_MAX_AGE": "10",
    "GATEWAY_STATEMENT_TIMEOUT": "5",
    "GATEWAY_DRAIN_TIMEOUT": "2",
    "GATEWAY_HOUSEKEEPING_INTERVAL": "1",  # runs are packed while they are read
    "GATEWAY_MIGRATE": "false",
}


class Process(Protocol):
    """What a platform starts and stops."""

    async def launch(self) -> None: ...

    def send_signal(self, number: signal.Signals) -> None: ...


async def launch(process: Process, failed: type[Exception]) -> None:
    """Starts a process, as a platform does: again and again. Raises `failed` in the end."""
    deadline = time.monotonic() + START_PATIENCE
    while True:
        try:
            return await process.launch()
        except failed:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)


@contextmanager
def frozen(process: Process) -> Iterator[None]:
    """SIGSTOP, and SIGCONT at the end."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


class Site:
    """One Machine and its ways. Only one fault at a time ends or freezes its process."""

    def __init__(
        self, machine: Machine, front: Proxy, back: Proxy, findings: Findings, exits: list[float],
        house: House | None = None,
    ) -> None:  # fmt: skip
        self.machine = machine
        self.front = front
        self.back = back
        self.house = house
        self.busy = asyncio.Lock()
        self.linked = asyncio.Lock()  # held by what cuts its database off
        self._findings = findings
        self._exits = exits

    async def start(self) -> None:
        """Starts the process. Raises MachineFailed."""
        await launch(self.machine, MachineFailed)
        self.front.target = self.machine.url
        if self.house is not None:
            self.house.between.target = self.machine.url

    async def terminate(self, number: signal.Signals = signal.SIGTERM) -> None:
        """SIGTERM or SIGINT, and the time until it has ended by itself."""
        began = time.monotonic()
        try:
            code = await self.machine.terminate(number)
        except TimeoutError:
            self._findings.add(EXITS, f"a Machine did not end by itself after {number.name}")
        else:
            self._exits.append(time.monotonic() - began)
            self._findings.add(EXITS, f"a Machine ended with code {code} after {number.name}", int(code != 0))


class Fleet:
    """All Machines over one database. `doors` are the addresses that clients know; they never change.

    The first goes by a `clock` of its own, the second by way of a `pooler`, where there is such a program.
    """

    def __init__(
        self, sites: list[Site], database: Database, clock: Clock | None, pooler: PgBouncer | None,
        findings: Findings, exits: list[float],
    ) -> None:  # fmt: skip
        self.sites = sites
        self.database = database
        self.clock = clock
        self.pooler = pooler
        self.findings = findings
        self.exits = exits  # seconds from SIGTERM or SIGINT to the end

    @property
    def left_out(self) -> Mapping[str, str]:
        """The faults that cannot be here, and why."""
        lacking = {
            schedule.RESTART: None if self.database.own else "that Postgres is not ours",
            schedule.CRASH: None if self.database.own else "that Postgres is not ours",
            schedule.FULL: None if self.database.disk else "no file system can be mounted here",
            schedule.CLOCK: None if self.clock else "faketime is not installed",
            schedule.POOLER: None if self.pooler else "pgbouncer is not installed",
        }
        return {kind: why for kind, why in lacking.items() if why is not None}

    @property
    def doors(self) -> list[str]:
        return [f"http://127.0.0.1:{site.front.port}" for site in self.sites]

    def tell(self, folder: Path) -> None:
        """Writes down what the Machines have printed, all processes of one after the other."""
        folder.mkdir(parents=True, exist_ok=True)
        for number, site in enumerate(self.sites):
            (folder / f"machine-{number}.log").write_text(site.machine.log)

    def miss(self) -> None:
        """Finds Machines that have ended by themselves."""
        for number, site in enumerate(self.sites):
            if not site.machine.running:
                self.findings.add(EXITS, f"Machine {number} has ended by itself:\n{site.machine.log[-2000:]}")


@asynccontextmanager
async def open_fleet(
    database: Database, folder: Path, count: int, program: str, env: Mapping[str, str] | None = None,
    houses: Sequence[House] = (), *, clocked: bool = True, executed: bool = False,
) -> AsyncIterator[Fleet]:  # fmt: skip
    """So many Machines, ended with the block. `folder` is for what they need. `houses`: of one for each. `clocked`: the
    first has a clock of its own. `executed`: each has an interpreter of its own, and none is forked.
    """
    findings, exits = Findings(), list[float]()
    async with AsyncExitStack() as stack:
        clock = Clock(folder / "clock") if LIBRARY is not None and clocked else None
        pooler = await stack.enter_async_context(PgBouncer.start(database.url)) if PROGRAM is not None else None
        sites = []
        for number in range(count):
            front = await stack.enter_async_context(Proxy("http://127.0.0.1:9"))
            back = await stack.enter_async_context(Proxy(database.socket))
            settings = {**SETTINGS, "DATABASE_URL": database.through(back.port), **(env or {})}
            house = houses[number] if houses else None
            settings |= {} if house is None else house.settings
            if number == 0 and clock is not None:
                settings |= clock.env
            if number == 1 and pooler is not None:
                back.target = f"tcp://127.0.0.1:{pooler.port}"
                settings["LISTEN_DATABASE_URL"] = database.url
            machine = Machine(settings, program)
            machine.executed = executed
            stack.push_async_callback(machine.kill)
            sites.append(Site(machine, front, back, findings, exits, house))
        async with asyncio.TaskGroup() as tasks:
            for site in sites:
                tasks.create_task(site.start())
        yield Fleet(sites, database, clock, pooler, findings, exits)
