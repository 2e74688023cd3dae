"""The Machines that are besieged, and what each of them uses, as the kernel says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.process.machine import Machine
from loadtests.bench.processes import memory, peak, reset_peak
from loadtests.siege.machine import APPENDS, VARIABLE
from loadtests.siege.times import Answer, Turn, answers, turns

PROGRAM = "loadtests.siege.machine"


@dataclass(frozen=True)
class Use:
    """Bytes that are resident, and descriptors that are open."""

    memory: int
    descriptors: int


class Besieged:
    """One Machine with a probe in its loop."""

    def __init__(self, machine: Machine, file: Path) -> None:
        self.machine = machine
        self._file = file

    def use(self) -> Use:
        pid = self.machine.pid
        return Use(memory([pid]), len(list((Path("/proc") / str(pid) / "fd").iterdir())))

    def forget_peak(self) -> None:
        reset_peak([self.machine.pid])

    def peak(self) -> int:
        """The most bytes that were resident since that was forgotten."""
        return peak([self.machine.pid])

    def turns(self) -> Sequence[Turn]:
        return list(turns(self._file.read_text()))

    def appends(self) -> Sequence[Answer]:
        """When honest appends were answered, and what the loop had computed since they came."""
        return list(answers(self._file.with_suffix(APPENDS).read_text()))


@asynccontextmanager
async def open_machines(
    count: int, database_url: str, folder: Path, settings: Mapping[str, str]
) -> AsyncIterator[Sequence[Besieged]]:
    """So many, over one database that is migrated; ended with the block."""
    async with AsyncExitStack() as stack:
        found = []
        for number in range(count):
            file = folder / f"turns-{number}"
            file.touch()
            env = {"DATABASE_URL": database_url, "GATEWAY_MIGRATE": "false", VARIABLE: str(file), **settings}
            machine = Machine(env, PROGRAM)
            stack.push_async_callback(machine.kill)
            await machine.launch()
            found.append(Besieged(machine, file))
        yield found
