"""A file system that can be full: a tmpfs, which is made as small as what is on it. Linux, and root."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZE = "50%"  # of the memory, of which it takes what is written


class Disk:
    """Mounted at `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def full(self) -> Iterator[None]:
        """Not a page is left on it."""
        while not self._resize(f"{self._used() // 1024}k"):  # it is written to meanwhile
            pass
        try:
            yield
        finally:
            self._resize(SIZE)

    def _used(self) -> int:
        found = os.statvfs(self._folder)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def _resize(self, size: str) -> bool:
        """Whether it is not too small for what is there."""
        mount = ["mount", "-o", f"remount,size={size}", str(self._folder)]
        return not subprocess.run(mount, capture_output=True, check=False).returncode


@contextmanager
def open_disk(folder: Path) -> Iterator[Disk | None]:
    """One at this folder, which is made; where nothing can be mounted the folder is an ordinary one."""
    folder.mkdir(mode=0o755)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0755", "none", str(folder)]
    if (
        sys.platform != "linux"
        or os.getuid() != 0
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        yield None
        return
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
