"""A control group of one's own, below the one that this process is in: so many bytes, and so much of one core.

By cgroup v2 where its controllers may be used here, and else by v1, as in containers of an older kind.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PERIOD = 100_000  # µs
PATIENCE = 10.0  # seconds until a group whose processes have ended is empty


class Missing(Exception):
    """This process may not make such a group; the message says what it lacks."""


@dataclass(frozen=True)
class Group:
    """`folders`: one for both limits, or one for each. The first counts memory."""

    version: int
    folders: tuple[Path, ...]

    def peak(self) -> int:
        """The most bytes that its processes have held: their own, and of the kernel's buffers what it accounts for."""
        name = "memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"
        return int((self.folders[0] / name).read_text())

    def used(self) -> int:
        """The bytes that they hold."""
        name = "memory.current" if self.version == 2 else "memory.usage_in_bytes"
        return int((self.folders[0] / name).read_text())

    def reached(self) -> int:
        """How often they would have had more than there is, had nothing been given back."""
        if self.version == 2:
            return _field(self.folders[0] / "memory.events", "max")
        return int((self.folders[0] / "memory.failcnt").read_text())

    def kills(self) -> int:
        """The processes that were killed for want of memory."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        return _field(self.folders[0] / name, "oom_kill")


@contextlib.contextmanager
def group(memory: int, cores: float) -> Iterator[Group]:
    """Raises Missing."""
    found = _make(memory, cores)
    try:
        yield found
    finally:
        until = time.monotonic() + PATIENCE
        for folder in found.folders:
            while time.monotonic() < until:
                try:
                    folder.rmdir()
                    break
                except OSError:  # its last process has not quite gone
                    time.sleep(0.05)


def _make(memory: int, cores: float) -> Group:
    own = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    name = f"run-gateway-small-{os.getpid()}"
    quota = int(cores * PERIOD)
    try:
        if "" in own and {"memory", "cpu"} <= set(_words(ROOT / own[""].lstrip("/") / "cgroup.controllers")):
            folder = ROOT / own[""].lstrip("/") / name
            folder.mkdir()
            (folder / "memory.max").write_text(str(memory))
            (folder / "memory.swap.max").write_text("0")
            (folder / "cpu.max").write_text(f"{quota} {PERIOD}")
            return Group(2, (folder,))
        folders = tuple(_v1(own, controller) / name for controller in ("memory", "cpu"))
        for folder in folders:
            folder.mkdir()
        (folders[0] / "memory.limit_in_bytes").write_text(str(memory))
        with contextlib.suppress(OSError):  # a kernel that does not account for swap
            (folders[0] / "memory.memsw.limit_in_bytes").write_text(str(memory))
        (folders[1] / "cpu.cfs_quota_us").write_text(str(quota))
        return Group(1, folders)
    except OSError as error:
        raise Missing(f"no control group for memory and cpu can be made here, as root can: {error}") from error


def _v1(own: dict[str, str], controller: str) -> Path:
    path = next((path for names, path in own.items() if controller in names.split(",")), None)
    if path is None:
        raise Missing(f"there is no control group for {controller}")
    mounted = ROOT / controller
    # In a container the path may be the host's, which is not to be seen here.
    return mounted / path.lstrip("/") if (mounted / path.lstrip("/")).is_dir() else mounted


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def _field(path: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.split()[0] == name)
