"""After a Machine has died: its conversations that have something to do get another owner, whose app is woken.

Every Machine looks; the database gives each conversation to one of them. Nothing is known here of HTTP and of SQL.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from gateway.outage import Outage
from gateway.owner.flue.submissions import Stranded
from gateway.tasks import forever

logger = logging.getLogger("gateway.owner.flue")

LOOK: Final = 1.0  # seconds between two looks
LONG: Final = 20.0  # seconds behind a lease's end, after which something is wrong: Flue's own look comes each 15 s
_AGAIN: Final = (2.0, 15.0)  # seconds until the app is woken again for the same: the first time, and at most
_NO_NAME: Final = re.compile(r"[^a-z0-9]")

Find = Callable[[], Awaitable[list[Stranded]]]
Take = Callable[[str, bytes], Awaitable[bool]]
Wake = Callable[[], Awaitable[object]]


class Recovery:
    """`find` gives submissions whose process is gone. `take` has this Machine own a conversation at a mount, unless
    another one that is alive does; it gives whether this one does. `wake` has the app look after what was left.

    `mounts`: of the app's agents. `clock`: steady seconds. `within`: the database's own outage.
    """

    def __init__(
        self,
        mounts: Sequence[str],
        find: Find,
        take: Take,
        wake: Wake,
        clock: Callable[[], float],
        within: Outage | None = None,
    ) -> None:
        self.late = 0
        """Submissions of the app's that nobody has worked on for LONG."""
        self._mounts = mounts
        self._find = find
        self._take = take
        self._wake = wake
        self._clock = clock
        self._woken_for: set[tuple[str, str]] = set()
        self._woken_at = 0.0
        self._pause = _AGAIN[0]
        self._outage = Outage(
            logger,
            "What a dead server of the Flue app has left could not be looked for (%r).",
            "What a dead server of the Flue app has left is looked for again.",
            within=within,
        )

    async def run(self) -> None:
        """Looks again and again. Runs until cancelled."""
        await forever(
            "The look at what the Flue app has left", self.look, lambda: LOOK * random.uniform(0.75, 1.25), self._outage
        )

    async def look(self) -> None:
        """Takes what nobody works on, and wakes the app for it. Raises Unavailable."""
        found = await self._find()
        self.late = sum(each.late > LONG for each in found)
        ours = {(each.agent, each.id) for each in found if await self._ours(each)}
        now = self._clock()
        again = self._pause if ours <= self._woken_for else 0.0
        if not ours:
            self._woken_for, self._pause = set(), _AGAIN[0]
        elif now >= self._woken_at + again:
            self._pause = min(self._pause * 2, _AGAIN[1]) if again else _AGAIN[0]
            self._woken_for, self._woken_at = ours, now
            logger.warning("A server of the Flue app has left %d conversations: the one here is woken.", len(ours))
            await self._wake()

    async def _ours(self, stranded: Stranded) -> bool:
        taken = [await self._take(mount, stranded.id.encode()) for mount in mounts_of(stranded.agent, self._mounts)]
        return any(taken)


def mounts_of(agent: str, mounts: Sequence[str]) -> Sequence[str]:
    """Where an agent is likely to be mounted: where its name stands (`Triage`: `/agents/triage`), else at each."""
    named = [mount for mount in mounts if _plain(mount.rpartition("/")[2]) == _plain(agent)]
    return named or mounts


def _plain(name: str) -> str:
    return _NO_NAME.sub("", name.lower())
