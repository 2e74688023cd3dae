"""A Flue 2.x app's agents as rows of the table of owners, and what its own tables tell of their conversations."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Final

from gateway.log.database import Database
from gateway.owner.errors import BadOwned
from gateway.owner.flue.ids import id_of
from gateway.owner.flue.recovery import Recovery
from gateway.owner.flue.submissions import Submissions
from gateway.owner.flue.wake import Waker
from gateway.owner.lives import clock
from gateway.owner.rows import Key, Row
from gateway.tasks import end, kept

_MOUNT: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
_OUTSIDE: Final = (".", "..")


class Agents:
    """The agents at `mounts` of the app at `origin`, over the database that both use. `authorization`: see `Waker`."""

    def __init__(self, mounts: tuple[str, ...], origin: str, database: Database, authorization: str | None) -> None:
        self.waker = Waker(origin, mounts[0], authorization)
        self.recovery: Recovery | None = None
        self._submissions = Submissions(database)
        self._database = database
        self._rows = {mount: self._row(mount) for mount in mounts}
        self._task: asyncio.Task[None] | None = None

    @property
    def rows(self) -> tuple[Row, ...]:
        """Of the table of owners."""
        return tuple(self._rows.values())

    def start(self, take: Callable[[Key], Awaitable[bool]]) -> None:
        """Looks for what dead servers have left, from now on. `take` has this Machine own a conversation, unless
        another one that is alive does.
        """

        async def taken(mount: str, id: bytes) -> bool:
            return await take(Key.of(self._rows[mount], id))

        self.recovery = Recovery(
            tuple(self._rows), self._submissions.stranded, taken, self.waker.wake, clock, self._database.away
        )
        self._task = kept("look at what Flue's servers have left", self.recovery.run)

    async def stop(self) -> None:
        await end(self._task)

    async def busy(self, ids: Sequence[bytes]) -> Collection[bytes]:
        """Those of these conversations that have something to do, as Flue's table says. Raises Unavailable."""
        return await self._submissions.busy(ids)

    async def revive(self, ids: Sequence[bytes]) -> None:
        """Nothing: Flue's leases pass later than those of Machines, and `Recovery` sees when they have."""

    def _row(self, mount: str) -> Row:
        """The conversations of an agent. GATEWAY_OWNED would give them the same name."""
        pattern = f"{mount}/{{id}}"
        # @durable-streams/client 0.2.7, below the SDK: after a clean end it asks for what comes next at once.
        return Row(pattern, pattern, work=self, clean=True, find=partial(_find, mount))


def mounts_of(agents: str | None) -> tuple[str, ...]:
    """The mounts that GATEWAY_FLUE_AGENTS names, with commas between. Raises BadOwned."""
    mounts = tuple(mount.strip() for mount in (agents or "").split(",") if mount.strip())
    for mount in mounts:
        if not _MOUNT.fullmatch(mount) or any(part in _OUTSIDE for part in mount.split("/")):
            raise BadOwned(f"{mount}: an agent is named by the path where the app mounts it, such as /agents/chat")
    if len(set(mounts)) < len(mounts):
        raise BadOwned(f"{agents}: an agent stands there twice")
    return mounts


def _find(mount: str, raw_path: bytes) -> bytes | None:
    id = id_of(mount, raw_path)
    return None if id is None else id.encode()
