"""A resolver for the names that clients give, so that names without an answer hold up nothing else.

A look-up cannot be ended, and may take the system half a minute. So each has a thread; there are few of them, a tenant
has only some of these, and a request waits for one for a limited time. A name that had no answer is not asked for again
for a while. Nothing here is shared with the loop's own `getaddrinfo`, which the upstream and the database need.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Final

MOST: Final = 16  # threads
MOST_OF_ONE: Final = 4  # threads that one tenant's names may take
TIMEOUT: Final = 4.0  # seconds for an answer, the wait for a thread included
FORGET: Final = 30.0  # seconds until a name that had no answer is asked for again
MOST_REMEMBERED: Final = 1_000  # such names

Lookup = Callable[[str], Sequence[str]]


class Unresolved(OSError):
    """The name has no address, or no answer came in time."""


def look_up(host: str) -> Sequence[str]:
    """The addresses of a host, as the system's resolver gives them. Blocks. Raises OSError, UnicodeError."""
    return [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


class Resolver:
    """Look-ups under way, and names that failed. `lookup` blocks; `clock` gives monotonic seconds."""

    def __init__(
        self, lookup: Lookup = look_up, *, clock: Callable[[], float] = time.monotonic, timeout: float = TIMEOUT
    ) -> None:
        self.under_way: dict[str, int] = {}  # threads by tenant
        self._lookup = lookup
        self._clock = clock
        self._timeout = timeout
        self._failed: dict[str, float] = {}  # names, each with when it is forgotten; the oldest first
        self._waiting: set[asyncio.Future[None]] = set()  # for a thread

    async def resolve(self, tenant: str, host: str) -> Sequence[str]:
        """The addresses of a tenant's host. Raises Unresolved."""
        with suppress(ValueError):
            return [str(ip_address(host))]  # needs nobody
        if self._failed.get(host, 0.0) > self._clock():
            raise Unresolved("The name had no address a moment ago.")
        asked = False
        try:
            async with asyncio.timeout(self._timeout):
                await self._room(tenant)
                asked = True
                return await self._begin(tenant, host)
        except TimeoutError:
            if asked:  # else nothing is known of this name
                self._remember(host)
            raise Unresolved("The name was not resolved in time.") from None
        except (OSError, UnicodeError) as error:
            self._remember(host)
            raise Unresolved(str(error)) from error

    async def _room(self, tenant: str) -> None:
        while not self._has_room(tenant):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.add(waiter)
            try:
                await waiter
            finally:
                self._waiting.discard(waiter)

    def _has_room(self, tenant: str) -> bool:
        return sum(self.under_way.values()) < MOST and self.under_way.get(tenant, 0) < MOST_OF_ONE

    def _begin(self, tenant: str, host: str) -> asyncio.Future[Sequence[str]]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Sequence[str]] = loop.create_future()
        self.under_way[tenant] = self.under_way.get(tenant, 0) + 1

        def ended(addresses: Sequence[str], error: Exception | None) -> None:
            self.under_way[tenant] -= 1
            if not self.under_way[tenant]:
                del self.under_way[tenant]
            if not answer.done():
                answer.set_result(addresses) if error is None else answer.set_exception(error)
            for waiter in self._waiting:
                if not waiter.done():
                    waiter.set_result(None)

        def run() -> None:
            addresses: Sequence[str] = ()
            failure: Exception | None = None
            try:
                addresses = self._lookup(host)
            except Exception as error:  # noqa: BLE001  raised where it is awaited
                failure = error.with_traceback(None)  # which knows this frame, which knows the failure
            with suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(ended, addresses, failure)

        # A daemon: a look-up that hangs keeps no process from ending.
        threading.Thread(target=run, name="name of a webhook", daemon=True).start()
        return answer

    def _remember(self, host: str) -> None:
        self._failed.pop(host, None)
        self._failed[host] = self._clock() + FORGET
        if len(self._failed) > MOST_REMEMBERED:
            del self._failed[next(iter(self._failed))]
