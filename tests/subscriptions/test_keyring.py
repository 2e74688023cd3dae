"""The keys that sign webhooks, shared by all Machines and changed while they serve."""

from __future__ import annotations

import asyncio

from gateway.log.database import Database
from gateway.subscriptions.keyring import read_keys, rotate


async def test_keys_are_made_once_and_shared(database: Database) -> None:
    made = await asyncio.gather(*(read_keys(database) for _ in range(4)))
    assert len({(keys.signer.kid, keys.token_key) for keys in made}) == 1


async def test_a_new_key_is_published_before_it_signs_and_old_ones_go(database: Database) -> None:
    first = (await read_keys(database)).signer.kid
    await rotate(database)
    keys = await read_keys(database)
    assert keys.signer.kid == first, "other Machines may not publish the new one yet"
    assert len(keys.jwks()["keys"]) == 2
    async with database.acquire() as connection:
        await connection.execute("UPDATE run_gateway.subscription_keys SET created_at = now() - interval '3 minutes'")
    keys = await read_keys(database)
    assert keys.signer.kid != first
    assert first in [key["kid"] for key in keys.jwks()["keys"]], "what it signed stays verifiable"
    for _ in range(3):
        await rotate(database)
    published = [key["kid"] for key in (await read_keys(database)).jwks()["keys"]]
    assert len(published) == 3
    assert first not in published
