"""A Flue 2.x app's agents as rows of the table of owners, and what its own tables tell of their conversations."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from hashlib import blake2b
from typing import Final

from gateway.asgi import Receive, Scope
from gateway.http.door import Behind
from gateway.http.responses import Sending
from gateway.log.database import Database
from gateway.outage import Outage
from gateway.owner.errors import BadOwned
from gateway.owner.flue.following import Following
from gateway.owner.flue.ids import id_of
from gateway.owner.flue.processes import Processes
from gateway.owner.flue.recovery import Recovery, mounts_of
from gateway.owner.flue.submissions import Submissions
from gateway.owner.flue.wake import Waker
from gateway.owner.lives import clock
from gateway.owner.owner import Owner
from gateway.owner.rows import Key, Row
from gateway.tasks import end, forever, kept

logger = logging.getLogger("gateway.owner.flue")

LOOK: Final = 1.0  # seconds between two looks at Flue's tables
SOON: Final = 0.1  # seconds after a message until a look who runs it
AGAIN: Final = 30.0  # seconds until an app that has not said who it is is asked again
_MOUNT: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
_OUTSIDE: Final = (".", "..")


class Agents:
    """The agents at `mounts` of the app at `origin`, over the database that both use. `authorization`: see `Waker`."""

    def __init__(self, mounts: tuple[str, ...], origin: str, database: Database, authorization: str | None) -> None:
        self.waker = Waker(origin, mounts[0], authorization)
        self.recovery: Recovery | None = None
        self.following: Following | None = None
        self._submissions = Submissions(database)
        self._processes = Processes(database)
        self._rows = {mount: self._row(mount) for mount in mounts}
        self._bell = asyncio.Event()
        self._known: int | None = None  # the life whose process is known
        self._unknown_until = 0.0
        self._task: asyncio.Task[None] | None = None
        self._outage = Outage(
            logger,
            "Flue's tables could not be looked at (%r).",
            "Flue's tables are looked at again.",
            within=database.away,
        )

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of the table of owners."""
        return tuple(self._rows.values())

    def start(self, owner: Owner, place: Callable[[], str]) -> None:
        """Looks at Flue's tables from now on. `place`: the address of this Machine, which no other one has."""
        self.recovery = Recovery(self._submissions.stranded, self._keys, owner.take, self.waker.wake, clock)
        self.following = Following(self._processes.running, self._keys, owner)
        look = partial(self._look, owner, self.recovery, self.following, place)
        self._task = kept("look at Flue's tables", partial(self._run, look))

    async def stop(self) -> None:
        await end(self._task)

    def before(self, inner: Behind) -> Behind:
        """The application, after whose messages there is a look who runs them."""

        async def answer(scope: Scope, receive: Receive, send: Sending) -> None:
            try:
                await inner(scope, receive, send)
            finally:
                if scope["method"] == "POST":
                    asyncio.get_running_loop().call_later(SOON, self._bell.set)

        return answer

    async def busy(self, ids: Sequence[bytes]) -> Collection[bytes]:
        """The conversations among `keys` that have something to do, by Flue's own table. Raises Unavailable."""
        return await self._submissions.busy(ids)

    async def revive(self, ids: Sequence[bytes]) -> None:
        """Does nothing: Flue's leases pass later than those of Machines, and `Recovery` sees when they have."""

    async def _run(self, look: Callable[[], Awaitable[None]]) -> None:
        pause = partial(random.uniform, 0.75 * LOOK, 1.25 * LOOK)
        await forever("The look at Flue's tables", look, pause, self._outage, bell=self._bell)

    async def _look(self, owner: Owner, recovery: Recovery, following: Following, place: Callable[[], str]) -> None:
        life = owner.lives.life
        if life is None or not await self._submissions.there():
            return
        if life != self._known and clock() >= self._unknown_until:
            probe = f"run-gateway-{blake2b(place().encode(), digest_size=6).hexdigest()}"
            if await self.waker.touch(probe) and await self._processes.tell(life, probe):
                self._known = life
            else:
                self._unknown_until = clock() + AGAIN
        await following.look(life)
        await recovery.look()

    def _keys(self, agent: str, id: bytes) -> list[Key]:
        return [Key.of(self._rows[mount], id) for mount in mounts_of(agent, tuple(self._rows))]

    def _row(self, mount: str) -> Row:
        """The conversations of an agent. GATEWAY_OWNED would give them the same name."""
        pattern = f"{mount}/{{id}}"
        # @durable-streams/client 0.2.7, below the SDK: after a clean end it asks for what comes next at once.
        return Row(pattern, pattern, work=self, clean=True, find=partial(_find, mount))


def mounts_named(agents: str | None) -> tuple[str, ...]:
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
