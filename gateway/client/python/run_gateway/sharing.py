"""Shares one HTTP client among everything in a loop that shows one token, as long as it is used.

So a thousand runs in one process share their connections, and their appends go together.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final
from weakref import WeakKeyDictionary

from run_gateway.session import Session, Shared, client

CONTACT: Final = 10.0
"""Seconds within which a gateway has to answer for the first time."""
PATIENCE: Final = 300.0
"""Seconds for which a gateway that has answered before is waited for."""
TOKEN: Final = "RUN_GATEWAY_TOKEN"  # noqa: S105  the name of a variable, which the commands read as well


class _Held:
    def __init__(self, token: str | None) -> None:
        shared = Shared()
        self.session = Session(client(token), shared.told, patience=PATIENCE, contact=CONTACT, shared=shared)
        self.users = 0


_held: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str | None, _Held]]] = WeakKeyDictionary()


@asynccontextmanager
async def sharing(token: str | None = None, patience: float | None = None) -> AsyncIterator[Session]:
    """A session while the block runs. `token`: by default what the variable RUN_GATEWAY_TOKEN holds, if it is set."""
    token = token or os.environ.get(TOKEN) or None
    there = _held.setdefault(asyncio.get_running_loop(), {})
    held = there.get(token)
    if held is None:
        held = there[token] = _Held(token)
    held.users += 1
    try:
        yield held.session if patience is None else replace(held.session, patience=patience)
    finally:
        held.users -= 1
        if not held.users:
            del there[token]
            for together in held.session.shared.together.values():
                await together.close()
            await held.session.http.aclose()
