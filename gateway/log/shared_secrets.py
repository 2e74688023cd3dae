"""The secrets that all Machines share, in the database: webhooks and tokens are signed with them.

Several of a kind are valid at a time, so that a new one can be made while signatures of the old ones are still about.
The first Machine that asks makes the first of each kind. What is derived from a secret is not known here.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from gateway.log.database import Database

Purpose = Literal["sign", "token"]
"""`sign`: seeds of the keys that webhooks are signed with. `token`: what tokens are signed with."""

BYTES: Final = 32  # of a secret

_ALL: Final = (
    "SELECT purpose, secret, number = 1 OR created_at < now() - interval '2 minutes' AS known"
    " FROM run_gateway.subscription_keys ORDER BY purpose, number"
)
_FIRST: Final = (
    "INSERT INTO run_gateway.subscription_keys (purpose, number, secret) VALUES ('sign', 1, $1), ('token', 1, $2)"
    " ON CONFLICT DO NOTHING"
)
_NEXT: Final = (
    "INSERT INTO run_gateway.subscription_keys (purpose, number, secret)"
    " SELECT $1, max(number) + 1, $2 FROM run_gateway.subscription_keys WHERE purpose = $1 RETURNING number"
)
_DROP: Final = (
    "DELETE FROM run_gateway.subscription_keys WHERE purpose = $1 AND number <="
    " (SELECT max(number) - $2 FROM run_gateway.subscription_keys WHERE purpose = $1)"
)


@dataclass(frozen=True, slots=True)
class SharedSecret:
    """A secret. `known`: it is the first, or has been there for two minutes: every Machine has read it by now."""

    secret: bytes = field(repr=False)
    known: bool


async def read(database: Database) -> Mapping[Purpose, Sequence[SharedSecret]]:
    """The secrets by purpose, the oldest first; at least one of each. Raises Unavailable."""
    async with database.acquire() as connection:
        rows = await connection.fetch(_ALL)
        if len({row["purpose"] for row in rows}) < 2:
            await connection.execute(_FIRST, secrets.token_bytes(BYTES), secrets.token_bytes(BYTES))
            rows = await connection.fetch(_ALL)  # another Machine may have been first
    found: dict[Purpose, list[SharedSecret]] = {"sign": [], "token": []}
    for row in rows:
        found[row["purpose"]].append(SharedSecret(row["secret"], row["known"]))
    return found


async def add(database: Database, purpose: Purpose, *, keep: int | None = None) -> int:
    """Makes a new one, and returns its number, counted from 1. Raises Unavailable.

    `keep`: how many of the newest stay, this one included; None: all of them.
    """
    await read(database)  # so that there is a first one to count from
    async with database.acquire() as connection, connection.transaction():
        number: int = await connection.fetchval(_NEXT, purpose, secrets.token_bytes(BYTES))
        if keep is not None:
            await connection.execute(_DROP, purpose, keep)
    return number
