"""How background tasks are ended. Knows nothing of the house."""

from __future__ import annotations

import asyncio
from typing import Any


async def end(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancels tasks and waits until all have ended. None is a task that was never started.

    Raises what a task had failed with.
    """
    started = [task for task in tasks if task is not None]
    for task in started:
        task.cancel()
    if started:
        await asyncio.wait(started)
    for task in started:
        if not task.cancelled():
            task.result()
