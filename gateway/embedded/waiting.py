"""Waiting for what rings no bell: locks, and processes that may be another's children."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def wait_for(look: Callable[[], T | None], patience: float) -> T | None:
    """Polls `look`, and returns what it finds; None when it finds nothing within `patience` seconds."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + patience
    while (found := look()) is None and clock() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return found
