"""The database's part in owners: lives, keys and what is left of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from gateway.log.database import Database
from gateway.owner.rows import Key
from gateway.owner.rules import Owned

_BEGIN: Final = "SELECT run_gateway.begin_life($1, $2, $3, $4)"
_BEAT: Final = """
    WITH beat AS (
        UPDATE run_gateway.owner_lives
           SET beats = beats + 1, beat_at = clock_timestamp(), draining = draining OR $2, lease = greatest(lease, $3)
         WHERE life = $1 AND ended_at IS NULL RETURNING life
    )
    SELECT EXISTS (SELECT FROM beat) AS alive, array_agg(l.life) AS lives, array_agg(l.beats) AS beats,
           array_agg(l.address) AS addresses, array_agg(l.fly) AS fly, array_agg(l.draining) AS draining,
           array_agg(coalesce(l.lease, 0)) AS leases
      FROM run_gateway.owner_lives l WHERE l.ended_at IS NULL
"""
_END: Final = """
    UPDATE run_gateway.owner_lives SET ended_at = clock_timestamp()
     WHERE life = $1 AND beats = coalesce($2, beats) AND ended_at IS NULL RETURNING life
"""
_OWN: Final = "SELECT life, epoch, taken, from_life FROM run_gateway.own($1, $2, $3, $4, $5)"
_OWNER: Final = "SELECT life, epoch FROM run_gateway.owner_of($1)"
_OWNERS: Final = """
    SELECT o.key, o.life, o.epoch FROM run_gateway.owned o JOIN run_gateway.owner_lives l ON l.life = o.life
     WHERE o.key = ANY ($1) AND l.ended_at IS NULL
"""
_GIVE_BACK: Final = "DELETE FROM run_gateway.owned WHERE key = ANY ($1) AND life = $2"
_MOVE: Final = """
    UPDATE run_gateway.owned SET life = $3, epoch = nextval('run_gateway.owner_epochs'), taken_at = clock_timestamp()
     WHERE key = $1 AND life = $2
       AND EXISTS (SELECT FROM run_gateway.owner_lives l WHERE l.life = $3 AND l.ended_at IS NULL) RETURNING key
"""
_PAGE: Final = """
    SELECT key, tenant, row_name, id FROM run_gateway.owned WHERE life = $1 AND key > $2 ORDER BY key LIMIT $3
"""
_INHERIT: Final = """
    UPDATE run_gateway.owner_lives l SET heir = $1
     WHERE l.life = (
        SELECT d.life FROM run_gateway.owner_lives d
         WHERE d.ended_at IS NOT NULL AND d.settled_at IS NULL
           AND NOT EXISTS (
                SELECT FROM run_gateway.owner_lives h WHERE h.life = d.heir AND h.life <> $1 AND h.ended_at IS NULL)
         LIMIT 1 FOR UPDATE SKIP LOCKED)
       AND EXISTS (SELECT FROM run_gateway.owner_lives m WHERE m.life = $1 AND m.ended_at IS NULL AND NOT m.draining)
    RETURNING l.life
"""
_ADOPT: Final = """
    UPDATE run_gateway.owned SET life = $3, epoch = nextval('run_gateway.owner_epochs'), taken_at = clock_timestamp()
     WHERE key = ANY ($1) AND life = $2 RETURNING key, epoch
"""
_SETTLE: Final = """
    WITH gone AS (
        DELETE FROM run_gateway.owner_lives WHERE settled_at < clock_timestamp() - interval '1 hour'
    )
    UPDATE run_gateway.owner_lives SET settled_at = clock_timestamp() WHERE life = $1 AND heir = $2
"""


@dataclass(frozen=True, slots=True)
class Life:
    """A life that has not ended. `address`: where its gateway is; `fly`: what Fly calls its Machine.

    `lease`: seconds for which it may believe in itself after a beat.
    """

    life: int
    beats: int
    address: str
    fly: str | None
    draining: bool
    lease: float


@dataclass(frozen=True, slots=True)
class Held:
    """A key that a life has, as it stands there: its row may be none of this Machine's."""

    digest: bytes
    tenant: str
    row: str
    id: bytes


@dataclass(frozen=True, slots=True)
class Beat:
    """The answer to a beat: whether the own life goes on, and all lives."""

    alive: bool
    lives: dict[int, Life]


class Store:
    """The statements about owners. `lease`: seconds; no statement about lives may take longer than a part of it."""

    def __init__(self, database: Database, lease: float) -> None:
        self._database = database
        self._lease = lease
        self._lane = database.lane(lease / 4)  # beats never wait for a connection that others use

    async def close(self) -> None:
        await self._lane.close()

    async def begin(self, machine: UUID, address: str, fly: str | None, app: str) -> int:
        """The life of a Machine with this process of its application. Raises Unavailable."""
        row = await self._lane.fetchrow(_BEGIN, machine, address, fly, app)
        life: int = row["begin_life"]
        return life

    async def beat(self, life: int | None, draining: bool) -> Beat:
        """A sign of life, and a look at all lives. None: only the look. Raises Unavailable."""
        row = await self._lane.fetchrow(_BEAT, life, draining, self._lease)
        columns = (row[name] or () for name in ("lives", "beats", "addresses", "fly", "draining", "leases"))
        return Beat(row["alive"], {life: Life(life, *rest) for life, *rest in zip(*columns, strict=True)})

    async def end(self, life: int, beats: int | None = None) -> bool:
        """Ends a life; of another Machine, if it has not beaten since. Returns whether it has. Raises Unavailable."""
        async with self._database.acquire() as connection:
            return await connection.fetchval(_END, life, beats) is not None

    async def own(self, key: Key, taker: int) -> tuple[Owned, bool, int | None] | None:
        """Asks for a key. Returns its owner after that, whether that is new, and the owner before; None: nobody.

        Raises Unavailable.
        """
        async with self._database.acquire(key.tenant) as connection:
            row = await connection.fetchrow(_OWN, key.digest, key.tenant, key.row.name, key.id, taker)
        return None if row is None else (Owned(row["life"], row["epoch"]), row["taken"], row["from_life"])

    async def owner(self, key: Key) -> Owned | None:
        """The owner of a key; None: nobody. Raises Unavailable."""
        async with self._database.acquire(key.tenant) as connection:
            row = await connection.fetchrow(_OWNER, key.digest)
        return None if row is None else Owned(row["life"], row["epoch"])

    async def owners(self, digests: Sequence[bytes]) -> dict[bytes, Owned]:
        """The owners of these keys. Raises Unavailable."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_OWNERS, digests)
        return {row["key"]: Owned(row["life"], row["epoch"]) for row in rows}

    async def give_back(self, digests: Sequence[bytes], life: int) -> None:
        """A life has these keys no more. Raises Unavailable."""
        async with self._database.acquire() as connection:
            await connection.execute(_GIVE_BACK, digests, life)

    async def pass_on(self, digest: bytes, life: int, to: int) -> bool:
        """A life gives a key to another one, if that has not ended. Whether it has. Raises Unavailable."""
        async with self._database.acquire() as connection:
            return await connection.fetchval(_MOVE, digest, life, to) is not None

    async def page(self, life: int, after: bytes, most: int) -> list[Held]:
        """Keys of a life, the next after this digest. Raises Unavailable."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_PAGE, life, after, most)
        return [Held(row["key"], row["tenant"], row["row_name"], row["id"]) for row in rows]

    async def inherit(self, heir: int) -> int | None:
        """An ended life that nobody else settles, if there is one: also one that this heir has begun to settle.

        Raises Unavailable.
        """
        async with self._database.acquire() as connection:
            life: int | None = await connection.fetchval(_INHERIT, heir)
        return life

    async def adopt(self, digests: Sequence[bytes], dead: int, heir: int) -> dict[bytes, Owned]:
        """Gives keys of an ended life to this one. Returns those that it got. Raises Unavailable."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_ADOPT, digests, dead, heir)
        return {row["key"]: Owned(heir, row["epoch"]) for row in rows}

    async def settle(self, dead: int, heir: int) -> None:
        """Removes an ended life, of which nothing is left. Raises Unavailable."""
        async with self._database.acquire() as connection:
            await connection.execute(_SETTLE, dead, heir)
