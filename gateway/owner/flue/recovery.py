"""Recovers the conversations of a Machine that has died: those with something to do get another owner, whose app is
woken.

Every Machine looks; the database gives each conversation to one of them. Knows no HTTP and no SQL.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from gateway.owner.flue.submissions import Stranded
from gateway.owner.rows import Key

logger = logging.getLogger("gateway.owner.flue")

LONG: Final = 20.0  # seconds behind a lease's end, after which something is wrong: Flue's own look comes each 15 s
_AGAIN: Final = (2.0, 15.0)  # seconds until the app is woken again for the same: the first time, and at most
_NO_NAME: Final = re.compile(r"[^a-z0-9]")


class Recovery:
    """`find` gives submissions whose process is gone, and `keys` which conversations of the table of owners those may
    be. `take` has this Machine own one, unless another one that is alive does; it gives whether this one does. `wake`
    has the app look after what was left. `clock`: steady seconds.
    """

    def __init__(
        self,
        find: Callable[[], Awaitable[list[Stranded]]],
        keys: Callable[[str, bytes], Sequence[Key]],
        take: Callable[[Key], Awaitable[bool]],
        wake: Callable[[], Awaitable[object]],
        clock: Callable[[], float],
    ) -> None:
        self.late = 0
        """Submissions of the app's that nobody has worked on for LONG."""
        self._find = find
        self._keys = keys
        self._take = take
        self._wake = wake
        self._clock = clock
        self._woken_for: set[tuple[str, str]] = set()
        self._woken_at = 0.0
        self._pause = _AGAIN[0]

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
        return any([await self._take(key) for key in self._keys(stranded.agent, stranded.id.encode())])


def mounts_of(agent: str, mounts: Sequence[str]) -> Sequence[str]:
    """The mounts at which an agent may be: the one of its name (`Triage`: `/agents/triage`), else at each."""
    named = [mount for mount in mounts if _plain(mount.rpartition("/")[2]) == _plain(agent)]
    return named or mounts


def _plain(name: str) -> str:
    return _NO_NAME.sub("", name.lower())
