"""The host of a Machine as a fault: its descriptors, its disk, its clock. Linux, and for the disk root, as CI is."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from tests.tools.clock import FAKED, LIBRARY


def unless_ci(reason: str) -> NoReturn:
    """Skips the test; but CI is to have all that there is."""
    assert "CI" not in os.environ, f"CI has to be able to do this: {reason}"
    pytest.skip(reason)


def descriptors(pid: int) -> int:
    """How many a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def cpu_seconds(pid: int) -> float:
    """What a process has used of the processor so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def few_descriptors(pid: int, spare: int) -> Iterator[None]:
    """So many more than the process has open now, and not one beyond."""
    if sys.platform != "linux":
        unless_ci("only Linux limits another process")
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(pid) + spare, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A file system of its own, which can be filled."""
    with tempfile.TemporaryDirectory(prefix="small-disk-") as folder:
        os.chmod(folder, 0o755)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "none", folder]
        if sys.platform != "linux" or os.getuid() != 0 or subprocess.run(mount, check=False).returncode:
            unless_ci("a file system cannot be mounted here")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not a byte is left on it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 2
    try:
        yield
    finally:
        ballast.unlink()


def faked_clock(offset: str) -> dict[str, str]:
    """The environment of a process whose wall clock is off by `+10m` or `-10m`, and not its monotonic one."""
    if LIBRARY is None:
        unless_ci("faketime is not installed")
    return {**FAKED, "FAKETIME": offset}
