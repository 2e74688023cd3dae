"""The work of a Flue 2.x app, by its table of submissions, which is only read.

A submission is a message: queued, then run by one process of the app, which renews its lease. No process of Flue's
looks after the leases of others unless it has been given something to do itself; hence `stranded`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

from gateway.log.database import Database

LATE: Final = (
    0.25  # seconds behind a lease's end, which is told by the app's clock, until its submission counts as stranded
)
QUEUED: Final = 5.0  # seconds for which the first submission in a line may wait: who admits it runs it at once
_PREFIX: Final = "agent-session:"

# Flue 2.1.0: lease_expires_at and accepted_at are Date.now() of the app. There is an index of (status, sequence), and
# what is settled stays in the table.
_THERE: Final = "SELECT to_regclass('flue_agent_submissions') IS NOT NULL"
_UNSETTLED: Final = """
    SELECT DISTINCT session_key FROM flue_agent_submissions
     WHERE status IN ('queued', 'running', 'terminalizing', 'joining', 'joined')
"""
_STRANDED: Final = """
    WITH now AS (SELECT extract(epoch FROM clock_timestamp())::float8 AS at)
    SELECT s.session_key, now.at - s.lease_expires_at / 1000.0 AS late
      FROM flue_agent_submissions s, now
     WHERE s.status IN ('running', 'terminalizing') AND s.lease_expires_at > 0
       AND s.lease_expires_at / 1000.0 < now.at - $1
     UNION ALL
    SELECT s.session_key, now.at - s.accepted_at / 1000.0
      FROM flue_agent_submissions s, now
     WHERE s.status = 'queued' AND s.accepted_at / 1000.0 < now.at - $2
       AND NOT EXISTS (SELECT FROM flue_agent_submissions e WHERE e.session_key = s.session_key
                          AND e.status IN ('queued', 'running', 'terminalizing', 'joining', 'joined')
                          AND e.sequence < s.sequence)
"""


@dataclass(frozen=True, slots=True)
class Stranded:
    """A submission that nobody works on. `agent` is Flue's name of it; `late`: for how many seconds."""

    agent: str
    id: str
    late: float


class Submissions:
    """The submissions of the Flue app in this database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._there = False

    async def there(self) -> bool:
        """Whether the app has made its tables, as it does when it starts for the first time. Raises Unavailable."""
        if not self._there:
            async with self._database.acquire() as connection:
                self._there = bool(await connection.fetchval(_THERE))
        return self._there

    async def busy(self, ids: Iterable[bytes]) -> Collection[bytes]:
        """The conversations among these that have something to do; one of another agent with the same id counts.

        Raises Unavailable.
        """
        rows = await self._fetch(_UNSETTLED)
        working = {id.encode() for _, id in filter(None, (session(key) for (key,) in rows))}
        return working.intersection(ids)

    async def stranded(self) -> list[Stranded]:
        """Submissions whose process is gone. Raises Unavailable."""
        rows = await self._fetch(_STRANDED, LATE, QUEUED)
        found = ((session(key), late) for key, late in rows)
        return [Stranded(*named, late) for named, late in found if named is not None]

    async def _fetch(self, statement: str, *arguments: object) -> list[tuple[Any, ...]]:
        if not await self.there():
            return []
        async with self._database.acquire() as connection:
            return [tuple(row) for row in await connection.fetch(statement, *arguments)]


def session(key: str) -> tuple[str, str] | None:
    """Agent and id of a session's key, such as `agent-session:["Chat","c1","default","default"]`; None: it is none."""
    try:
        agent, id, *_ = json.loads(key.removeprefix(_PREFIX))
        f"{agent}{id}".encode()  # half of a character (`\\ud800`) can be in no path
    except ValueError:
        return None
    return (agent, id) if isinstance(agent, str) and isinstance(id, str) else None
