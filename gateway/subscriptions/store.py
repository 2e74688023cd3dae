"""Subscriptions in Postgres: one method, one statement, one short transaction (log/sql/functions/subscriptions.sql).

It knows tables and verdicts, not HTTP. Every change is judged by the database, under the subscription's row lock and
by the database's clock, so that it does not matter which Machine makes it. Raises Unavailable without a database.
Ids and paths are stored ones, inside their tenant (`gateway.protocol.tenants`); patterns are as the client wrote them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, cast

import asyncpg
import orjson

from gateway.log.database import Database
from gateway.protocol.tenants import shown, tenant_of
from gateway.subscriptions.errors import Code, Refusal
from gateway.subscriptions.glob import Glob
from gateway.subscriptions.rules import Settlement, Wanted
from gateway.subscriptions.values import Claim, Delivery, Interest, Link, Subscription, Type

logger = logging.getLogger("gateway.subscriptions.store")

MOST_LISTED: Final = 10_000  # streams that one answer lists
MOST_WORK: Final = 1_000  # streams that one wake tells of; those left over are the next wake's
_TIDY_STEPS: Final = 20  # in a row, while there is nothing to do
MOST_EXPLICIT: Final = 10_000  # explicit paths that a Machine keeps in memory

_CREATE: Final = "SELECT run_gateway.create_subscription($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
_GET: Final = (
    "SELECT *, run_gateway.linked_streams(number, true, $2) AS streams FROM run_gateway.subscriptions WHERE id = $1"
)
_EXPLICIT: Final = "SELECT DISTINCT path FROM run_gateway.subscription_links WHERE explicit AND NOT settled LIMIT $1"
_NOT_FOUND: Final = Code.SUBSCRIPTION_NOT_FOUND, "Subscription not found"
_REFUSALS: Final = {
    "not_found": _NOT_FOUND,
    "wrong_type": (Code.INVALID_REQUEST, "Subscription is not pull-wake"),
    "no_work": (Code.NO_PENDING_WORK, "Subscription has no pending work"),
    "bad_token": (Code.TOKEN_INVALID, "Token invalid"),
    "fenced": (Code.FENCED, "Wake generation is stale"),
    "unknown_stream": (Code.INVALID_OFFSET, "Ack references an unknown subscription stream"),
    "bad_offset": (Code.INVALID_OFFSET, "Ack offset must be an offset of the stream, and not -1"),
    "regressing": (Code.INVALID_OFFSET, "Ack offset regresses the committed cursor"),
    "beyond_tail": (Code.INVALID_OFFSET, "Ack offset is beyond stream tail"),
}


class Store:
    """Everything that is asked of the database about subscriptions."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tidied = (0, "")  # the link that was looked at last

    async def create(self, id: str, wanted: Wanted) -> bool:
        """Creates it. False: it exists already, with the same configuration. Raises Refusal."""
        glob = None if wanted.pattern is None else Glob(wanted.pattern)
        async with self._database.acquire() as connection:
            verdict = await connection.fetchval(
                _CREATE,
                id,
                wanted.type,
                wanted.pattern,
                glob and glob.head,
                glob and glob.regex,
                wanted.streams,
                wanted.webhook_url,
                wanted.wake_stream,
                timedelta(milliseconds=wanted.lease_ttl_ms),
                wanted.description,
                wanted.config_hash,
            )
        if verdict == "conflict":
            raise Refusal(Code.SUBSCRIPTION_ALREADY_EXISTS, "Subscription already exists with different configuration")
        return bool(verdict == "created")

    async def get(self, id: str) -> Subscription:
        """Raises Refusal when there is none."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(_GET, id, MOST_LISTED)
        if row is None:
            raise Refusal(*_NOT_FOUND)
        return Subscription(
            row["id"],
            row["type"],
            row["pattern"],
            row["webhook_url"],
            row["wake_stream"],
            _milliseconds(row["lease_ttl"]),
            row["description"],
            row["created_at"],
            row["retry_count"] > 0,
            _links(row["streams"]),
        )

    async def delete(self, id: str) -> None:
        """Deletes it, if it exists. Its links no longer count; `tidy` removes them."""
        async with self._database.acquire() as connection:
            await connection.execute("SELECT run_gateway.delete_subscription($1)", id)

    async def add_streams(self, id: str, paths: Sequence[str]) -> None:
        """Links streams at their present tail. Raises Refusal without such a subscription."""
        async with self._database.acquire() as connection:
            found = await connection.fetchval("SELECT run_gateway.add_subscription_streams($1, $2)", id, paths)
        if not found:
            raise Refusal(*_NOT_FOUND)

    async def remove_stream(self, id: str, path: str) -> None:
        """Removes an explicit link, if there is one. Raises Refusal without such a subscription."""
        async with self._database.acquire() as connection:
            found = await connection.fetchval("SELECT run_gateway.remove_subscription_stream($1, $2)", id, path)
        if not found:
            raise Refusal(*_NOT_FOUND)

    async def claim(self, id: str, worker: str) -> Claim:
        """Gives the worker the lease. Raises Refusal."""
        row = await self._row("SELECT * FROM run_gateway.claim_subscription($1, $2, $3)", id, worker, MOST_WORK)
        if row["verdict"] == "claimed":
            raise Refusal(
                Code.ALREADY_CLAIMED,
                "Subscription is already claimed",
                current_holder=row["holder"],
                generation=row["generation"],
            )
        if row["verdict"] != "granted":
            raise Refusal(*_REFUSALS[row["verdict"]])
        _warn(row["lost_event"])
        return Claim(row["wake_id"], row["generation"], _milliseconds(row["lease_ttl"]), _links(row["streams"]))

    async def settle(self, id: str, type: Type | None, token_generation: int | None, settlement: Settlement) -> bool:
        """Applies acks, and extends the lease or ends the wake. Returns whether the next wake follows. Raises Refusal.

        `type`: what the subscription must be. `token_generation` None: the token was not valid.
        """
        acks = {ack.path: ack for ack in settlement.acks}  # of several for one stream, the last
        row = await self._row(
            "SELECT * FROM run_gateway.settle_wake($1, $2, $3, $4, $5, $6, $7, $8)",
            id,
            type,
            token_generation,
            settlement.generation,
            settlement.wake_id,
            list(acks),
            [ack.position for ack in acks.values()],
            settlement.done,
        )
        if row["verdict"] != "settled":
            raise Refusal(*_REFUSALS[row["verdict"]])
        _warn(row["lost_event"])
        return bool(row["next_wake"])

    async def to_wake(self, paths: Sequence[str], most: int) -> list[tuple[int, str | None]]:
        """Idle subscriptions that one of these streams gives work to, each with such a stream."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch("SELECT * FROM run_gateway.subscriptions_to_wake($1, $2)", paths, most)
        return [(row["subscription"], row["trigger_path"]) for row in rows]

    async def neglected(self, most: int, *, idle: bool = True) -> list[tuple[int, str | None]]:
        """Subscriptions whose lease has expired, and with `idle` those whose work nobody has seen to."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch("SELECT run_gateway.neglected_subscriptions($1, $2)", idle, most)
        return [(row[0], None) for row in rows]

    async def wake(self, subscription: int, trigger_path: str | None) -> bool:
        """Wakes it if it is idle and has work. Returns whether this call did."""
        row = await self._row("SELECT * FROM run_gateway.wake_subscription($1, $2)", subscription, trigger_path)
        _warn(row["lost_event"])
        return bool(row["woken"])

    async def claim_deliveries(self, hold: float, most: int) -> list[Delivery]:
        """Deliveries that are due. This Machine is to make each, and report on it within `hold` seconds."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(
                "SELECT * FROM run_gateway.due_deliveries($1, $2, $3)",
                timedelta(seconds=hold),
                most,
                MOST_WORK,
            )
        return [
            Delivery(
                row["subscription"],
                row["id"],
                row["url"],
                row["wake_id"],
                row["generation"],
                row["retry_count"],
                _links(row["streams"]),
            )
            for row in rows
        ]

    async def delivered(self, delivery: Delivery) -> None:
        """The handler has the wake, and will call back."""
        await self._report(delivery, failed=False, retry_in=None)

    async def failed(self, delivery: Delivery, retry_in: float) -> None:
        """The next attempt is due in so many seconds."""
        await self._report(delivery, failed=True, retry_in=retry_in)

    async def give_back(self, delivery: Delivery) -> None:
        """This Machine will not make it: another one may at once."""
        await self._report(delivery, failed=False, retry_in=0)

    async def finished(self, delivery: Delivery) -> bool:
        """The handler is done with what the wake told it of (§7.1). Returns whether the next wake follows."""
        row = await self._row(
            "SELECT * FROM run_gateway.finish_delivery($1, $2, $3, $4, $5)",
            delivery.subscription,
            delivery.wake_id,
            [link.path for link in delivery.links],
            [link.tail for link in delivery.links],
            [link.stream for link in delivery.links],
        )
        _warn(row["lost_event"])
        return bool(row["next_wake"])

    async def interest(self, known: Interest | None) -> Interest:
        """What is subscribed to; `known` itself while nothing has changed since."""
        async with self._database.acquire() as connection:
            # The version is read first, so that what is read after it is at least as new.
            version = await connection.fetchval("SELECT version FROM run_gateway.subscription_changes")
            if known is not None and version == known.version:
                return known
            patterns = await connection.fetch("SELECT id, pattern FROM run_gateway.subscriptions")
            explicit = await connection.fetch(_EXPLICIT, MOST_EXPLICIT + 1)
        globs = {(row["pattern"], tenant_of(row["id"])) for row in patterns if row["pattern"] is not None}
        return Interest(
            version,
            len(patterns),
            [Glob(pattern, tenant) for pattern, tenant in globs],
            frozenset(row["path"] for row in explicit) if len(explicit) <= MOST_EXPLICIT else None,
        )

    async def tidy(self, most: int) -> int:
        """Removes links that no longer count. Returns how many rows it touched; 0: there is nothing more to do now.

        Goes on where the last call has ended, `most` links at a time and at most _TIDY_STEPS times.
        """
        for _ in range(_TIDY_STEPS):
            async with self._database.acquire() as connection:
                row = await connection.fetchrow("SELECT * FROM run_gateway.tidy_next($1, $2, $3)", *self._tidied, most)
            assert row is not None, "a function's OUT parameters are one row"
            self._tidied = (0, "") if row["path"] is None else (row["subscription"], row["path"])
            if row["touched"] or row["path"] is None:
                return cast(int, row["touched"])
        return 0

    async def _report(self, delivery: Delivery, *, failed: bool, retry_in: float | None) -> None:
        async with self._database.acquire() as connection:
            await connection.execute(
                "SELECT run_gateway.report_delivery($1, $2, $3, $4)",
                delivery.subscription,
                delivery.wake_id,
                failed,
                None if retry_in is None else timedelta(seconds=retry_in),
            )

    async def _row(self, query: str, *arguments: Any) -> asyncpg.Record:
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(query, *arguments)
        assert row is not None, "a function's OUT parameters are one row"
        return row


def _links(streams: str) -> list[Link]:
    return [Link(*fields) for fields in orjson.loads(streams)]


def _milliseconds(interval: timedelta) -> int:
    return interval // timedelta(milliseconds=1)


def _warn(lost_event: str | None) -> None:
    if lost_event is not None:
        logger.warning("A wake event could not be written: %s", shown(lost_event))
