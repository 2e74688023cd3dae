"""Locks between processes, which end with the processes that hold them, and polling for what rings no bell."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

if sys.platform != "win32":
    import fcntl

T = TypeVar("T")


def try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock, or None while another holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


async def wait_for(look: Callable[[], T | None], patience: float) -> T | None:
    """Polls `look`, and returns what it finds; None when it finds nothing within `patience` seconds."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + patience
    while (found := look()) is None and clock() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return found
