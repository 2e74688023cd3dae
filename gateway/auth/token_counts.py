"""Counts of valid tokens, for an operator who is about to revoke them all. Machines keep no token; each tells the
database once a minute how many it has made.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from gateway.log.database import Database

HOUR: Final = 3600  # seconds: what expires within one is counted together

_ADD: Final = """
    INSERT INTO run_gateway.token_counts AS t (expired, tokens)
    SELECT to_timestamp(e), n FROM unnest($1::bigint[], $2::bigint[]) AS x(e, n) ORDER BY e
        ON CONFLICT (expired) DO UPDATE SET tokens = t.tokens + excluded.tokens"""
_FORGET: Final = "DELETE FROM run_gateway.token_counts WHERE expired <= clock_timestamp()"
_VALID: Final = (
    "SELECT coalesce(sum(tokens), 0)::bigint FROM run_gateway.token_counts WHERE expired > clock_timestamp()"
)


class TokenCounts:
    """Counts the tokens that one Machine has made since it last told."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._made = Counter[int]()

    def made(self, expires: int) -> None:
        """A token, which expires then (Unix seconds)."""
        self._made[-(-expires // HOUR) * HOUR] += 1

    async def tell(self) -> None:
        """Tells the database. Raises Unavailable; then the next turn tells of these as well."""
        if not self._made:
            return
        telling, self._made = self._made, Counter()
        try:
            async with self._database.acquire() as connection, connection.transaction():
                await connection.execute(_FORGET)
                await connection.execute(_ADD, list(telling), list(telling.values()))
        except BaseException:
            self._made.update(telling)
            raise


async def valid(database: Database) -> int:
    """The tokens of which it was told that have not expired, to the hour. Raises Unavailable."""
    async with database.acquire() as connection:
        count: int = await connection.fetchval(_VALID)
    return count


async def forget(database: Database) -> None:
    """Forgets all counts: the tokens have been revoked. Raises Unavailable."""
    async with database.acquire() as connection:
        await connection.execute("DELETE FROM run_gateway.token_counts")
