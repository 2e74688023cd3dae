"""Processes of the bench: started so that they end with it, and what the kernel says they have used.

Only what was started here is ended, by its pid. Linux: everything is read from /proc.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")
STOP_PATIENCE = 10.0

# Runs before the program, in its process: it ends when the bench does, however that ends.
LAUNCH = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Failed(Exception):
    """A peer or a client did not do what it was started for; the message holds what it printed."""


class Process:
    """A child with its output in a file."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self.log = log

    @classmethod
    async def start(
        cls, command: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Process:
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", "-c", LAUNCH, *command,
                stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
                env={**os.environ, **(env or {})}, cwd=cwd, start_new_session=True,
            )  # fmt: skip
        return cls(process, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def listening(self, port: int, patience: float = 30.0) -> None:
        """Waits until somebody accepts connections on the port. Raises Failed."""
        deadline = asyncio.get_running_loop().time() + patience
        while self.running and asyncio.get_running_loop().time() < deadline:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.02)
        raise Failed(f"nobody listens on port {port}: {self.said()}")

    async def end(self, patience: float) -> None:
        """Waits until it has ended by itself. Raises Failed."""
        try:
            await asyncio.wait_for(self._process.wait(), patience)
        except TimeoutError:
            raise Failed(f"did not end within {patience:g} s: {self.said()}") from None

    def said(self) -> str:
        """The end of what it has printed."""
        return self.log.read_text(errors="replace").strip()[-1000:]

    async def kill(self) -> None:
        """By SIGKILL."""
        await kill(self._process)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Asks, waits, and kills what still runs then."""
        for sent in (number, signal.SIGKILL):
            if not self.running:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(kill(self._process, sent), STOP_PATIENCE)


async def kill(process: asyncio.subprocess.Process, number: signal.Signals = signal.SIGKILL) -> None:
    """Sends a signal and waits for the end; nothing when it has ended."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            # Not its own send_signal: that reaps a child which has just ended, behind asyncio's back.
            os.kill(process.pid, number)
    await process.wait()


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@dataclass(frozen=True)
class Cpu:
    """Seconds of CPU since a process tree began."""

    user: float
    system: float

    @property
    def total(self) -> float:
        return self.user + self.system

    def __add__(self, other: Cpu) -> Cpu:
        return Cpu(self.user + other.user, self.system + other.system)

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.user - other.user, self.system - other.system)


@dataclass(frozen=True)
class Busy:
    """Ticks of all cores since the machine began, and those of them in which something ran."""

    ran: int
    all: int

    def share_since(self, other: Busy) -> float:
        return (self.ran - other.ran) / max(self.all - other.all, 1)


def machine_busy() -> Busy:
    """From the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal; see proc(5)."""
    ticks = [int(field) for field in (PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    return Busy(sum(ticks) - ticks[3] - ticks[4], sum(ticks))


def family(roots: Iterable[int]) -> list[int]:
    """These processes and everything below them that still runs."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    found, queue = [], list(roots)
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += children.get(pid, [])
    return found


def cpu(roots: Iterable[int]) -> Cpu:
    """What these processes have used, with the children they have and those they have waited for."""
    user = system = 0
    for pid in family(roots):
        with contextlib.suppress(OSError):
            fields = _stat(pid)
            user += int(fields[11]) + int(fields[13])
            system += int(fields[12]) + int(fields[14])
    return Cpu(user / TICKS, system / TICKS)


def memory(roots: Iterable[int]) -> int:
    """Bytes resident now; what several processes share is counted once."""
    return sum(_rollup(pid) for pid in family(roots))


def reset_peak(roots: Iterable[int]) -> None:
    """Lets `peak` begin anew."""
    for pid in family(roots):
        (PROC / str(pid) / "clear_refs").write_text("5")


def peak(roots: Iterable[int]) -> int:
    """The most bytes that were resident since `reset_peak`."""
    return sum(_kilobytes((PROC / str(pid) / "status").read_text(), "VmHWM:") for pid in family(roots))


def _stat(pid: int) -> list[str]:
    """/proc/<pid>/stat after the name, which may hold anything: state, parent, …; see proc(5)."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _rollup(pid: int) -> int:
    try:
        return _kilobytes((PROC / str(pid) / "smaps_rollup").read_text(), "Pss:")
    except OSError:
        return 0  # it has ended meanwhile


def _kilobytes(text: str, field: str) -> int:
    line = next((line for line in text.splitlines() if line.startswith(field)), None)
    return int(line.split()[1]) * 1024 if line is not None else 0
