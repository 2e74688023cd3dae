"""How tests ask the store of subscriptions, and what they read from its answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from gateway.subscriptions.errors import Code, Refusal
from gateway.subscriptions.records import Claim, Delivery, Subscription
from gateway.subscriptions.rules import Ack, Settlement
from gateway.subscriptions.store import Store
from tests.subscriptions.tools import webhook

HOOK = webhook("http://127.0.0.1:9/hook")
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@asynccontextmanager
async def held(database_url: str, query: str) -> AsyncIterator[None]:
    """Meanwhile somebody else's transaction holds the locks of the query."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.fetch(query)
            yield
    finally:
        await connection.close()


def cursors(subscription: Subscription) -> dict[str, int]:
    return {link.path: link.acked for link in subscription.links}


def pending(claim: Claim) -> dict[str, int]:
    return {link.path: link.tail for link in claim.links if link.pending}


def settlement(claim: Claim, *acks: Ack, done: bool = False) -> Settlement:
    return Settlement(claim.generation, claim.wake_id, acks, done)


async def claim_deliveries(store: Store, hold: float, most: int) -> list[Delivery]:
    """Claims what is due."""
    return await store.claim_deliveries(hold, [number for number, _, _ in await store.due(most, most)])


async def woken(store: Store) -> bool:
    """One look at everything; whether it woke somebody."""
    due = dict(await store.neglected(100))
    outcome = await store.wake(due)
    patient = await store.wake({number: due[number] for number in outcome.held}, patient=True)
    return outcome.woken + patient.woken > 0


async def refused(code: Code, attempt: object) -> Refusal:
    with pytest.raises(Refusal) as refusal:
        await attempt  # type: ignore[misc]
    assert refusal.value.code is code
    return refusal.value
