"""Subscriptions in Postgres: one method, one statement, one short transaction (log/sql/functions/subscriptions.sql).

It knows tables and verdicts, not HTTP. Every change is judged by the database, under the subscription's row lock and
by the database's clock, so that it does not matter which Machine makes it. Raises Unavailable without a database.
Ids and paths are stored ones, inside their tenant (`gateway.protocol.target`); patterns are as the client wrote them.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, cast
from weakref import WeakValueDictionary

import asyncpg
import orjson

from gateway.log.database import Database
from gateway.log.turns import LongWork
from gateway.protocol.errors import StreamHeld
from gateway.protocol.json_body import at_once
from gateway.protocol.target import shown, tenant_of, within
from gateway.subscriptions.errors import Code, LinkingGoesOn, Refusal
from gateway.subscriptions.glob import Glob
from gateway.subscriptions.records import EACH, Claim, Delivery, Interest, Link, Subscription, Type, Wakes
from gateway.subscriptions.rules import MAX_STREAMS, Settlement, Wanted
from gateway.tasks import in_turns

logger = logging.getLogger("gateway.subscriptions.store")

MOST_LISTED: Final = 10_000  # streams that one answer lists
MOST_WORK: Final = 1_000  # streams that one wake tells of; those left over are the next wake's
_TIDY_STEPS: Final = 100  # in a row, while there is nothing to do
MOST_EXPLICIT: Final = 1_000  # explicit paths of each tenant that a Machine keeps in memory
MOST_SUBSCRIPTIONS: Final = 1_000  # of a tenant, unless the settings say otherwise
_LINK_ROWS: Final = 2_000  # paths that are looked at in one step of linking
_LONGEST_LINKING: Final = 30.0  # seconds for which a request waits for it
_PATIENCE: Final = 5.0  # seconds for a row that another transaction holds
_STEP_BACK: Final = 0.05, 0.25  # seconds for which it is left to them, at least and at most
_PIECE: Final = 1_000  # patterns, or links, that are taken apart in one turn of the loop
_SEEK_LINKS: Final = 1_000  # that are asked for work in one step
_SEEKING: Final = 0.05  # seconds after which no other step follows at once
_QUIET: Final = 1.0  # seconds between two lines that tell of lost wakes

_BEGIN: Final = "SELECT * FROM run_gateway.begin_subscription($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
_ADD: Final = "SELECT * FROM run_gateway.add_explicit_streams($1, $2, $3)"
_UNLINKED: Final = (
    "SELECT number, id FROM run_gateway.subscriptions WHERE linking IS NOT NULL OR makers IS NOT NULL OR NOT noted"
    " ORDER BY number LIMIT $1"
)
_GET: Final = "SELECT *, run_gateway.links_of(number, true, $2) AS streams FROM run_gateway.subscriptions WHERE id = $1"
_LIST: Final = "SELECT * FROM run_gateway.subscriptions WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3"
_EXPLICIT: Final = """
    SELECT t.tenant, l.path FROM (SELECT DISTINCT s.tenant FROM run_gateway.subscriptions s) t
     CROSS JOIN LATERAL (
        SELECT DISTINCT l.path FROM run_gateway.subscription_links l
         WHERE l.explicit AND NOT l.settled
           AND CASE WHEN t.tenant = '' THEN strpos(l.path, chr(31)) = 0
                    ELSE l.path > t.tenant || chr(31) AND l.path < t.tenant || chr(32) END LIMIT $1) l
"""
_NOT_FOUND: Final = Code.SUBSCRIPTION_NOT_FOUND, "Subscription not found"
_REFUSALS: Final = {
    "not_found": _NOT_FOUND,
    "conflict": (Code.SUBSCRIPTION_ALREADY_EXISTS, "Subscription already exists with different configuration"),
    "wake_stream_type": (Code.WAKE_STREAM_REJECTED, "wake_stream is not a JSON stream: no wake can be written to it"),
    "wake_stream_closed": (Code.WAKE_STREAM_REJECTED, "wake_stream is closed: no wake can be written to it"),
    "wake_stream_gone": (Code.WAKE_STREAM_REJECTED, "wake_stream was deleted, and is kept for its forks alone"),
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

    def __init__(self, database: Database, *, most: int = MOST_SUBSCRIPTIONS, work: LongWork | None = None) -> None:
        self.unwritten = 0  # wakes
        self._database = database
        self._most = most
        self._tidied = (0, "")  # the link that was looked at last
        self._sought = (0, "")  # and the one at which work was sought last
        self._work = work or LongWork(1)
        self._linking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by tenant
        self._told_at = float("-inf")

    async def create(self, id: str, wanted: Wanted) -> bool:
        """Creates it, and links what is there. False: it exists already, with the same configuration. Raises Refusal.

        Linking goes on in the background where this raises Unavailable or is cancelled.
        """
        glob = None if wanted.pattern is None else Glob(wanted.pattern)
        async with self._database.acquire(tenant_of(id)) as connection:
            row = await connection.fetchrow(
                _BEGIN,
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
                self._most,
            )
        assert row is not None, "a function's OUT parameters are one row"
        if row["verdict"] == "too_many":
            raise Refusal(Code.TOO_MANY_SUBSCRIPTIONS, f"At most {self._most} subscriptions for each tenant")
        if row["verdict"] not in ("created", "confirmed"):
            raise Refusal(*_REFUSALS[row["verdict"]])
        await self._link(tenant_of(id), row["number"])
        return bool(row["verdict"] == "created")

    async def _link(self, tenant: str, number: int) -> None:
        """Links to what exists, in steps, those of one tenant one after the other. Raises Unavailable."""
        turn = self._linking.get(tenant)
        if turn is None:
            turn = self._linking[tenant] = asyncio.Lock()
        try:
            async with asyncio.timeout(_LONGEST_LINKING), turn:
                more = True
                while more:
                    try:
                        more = await self.link_next(number, tenant)
                    except StreamHeld:
                        await asyncio.sleep(random.uniform(*_STEP_BACK))
        except TimeoutError:
            raise LinkingGoesOn from None

    async def link_next(self, number: int, tenant: str) -> bool:
        """Links a subscription a step further. Returns whether another step is to be made now. Raises Unavailable."""
        async with self._work.turn(tenant), self._database.acquire(tenant) as connection:
            return bool(await connection.fetchval("SELECT run_gateway.link_next($1, $2)", number, _LINK_ROWS) == "more")

    async def unlinked(self, most: int) -> list[tuple[int, str]]:
        """Subscriptions that are not linked yet to all that was there when they were made, each with its tenant."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_UNLINKED, most)
        return [(row["number"], tenant_of(row["id"])) for row in rows]

    async def link_on(self, most: int) -> None:
        """Goes on with linking so many of those, but for the tenants of which a request here is at it.

        Raises Unavailable.
        """
        for number, tenant in await self.unlinked(most):
            if tenant not in self._linking:
                with suppress(StreamHeld):
                    while await self.link_next(number, tenant):
                        pass

    async def get(self, id: str) -> Subscription:
        """Raises Refusal when there is none."""
        tenant = tenant_of(id)
        async with self._work.turn(tenant), self._database.acquire(tenant) as connection:
            row = await connection.fetchrow(_GET, id, MOST_LISTED)
        if row is None:
            raise Refusal(*_NOT_FOUND)
        return _subscription(row, await in_turns(_links_in_pieces(row["streams"]), len(row["streams"])))

    async def of_tenant(self, tenant: str, after: str, most: int) -> list[Subscription]:
        """At most so many of a tenant's subscriptions, by their ids, from behind `after`; without their links."""
        async with self._database.acquire(tenant) as connection:
            rows = await connection.fetch(_LIST, tenant, within(tenant, after), most)
        return [_subscription(row, []) for row in rows]

    async def delete(self, id: str) -> None:
        """Deletes it, if it exists. Its links no longer count; `tidy` removes them."""
        async with self._database.acquire(tenant_of(id)) as connection:
            await connection.execute("SELECT run_gateway.delete_subscription($1)", id)

    async def add_streams(self, id: str, paths: Sequence[str]) -> None:
        """Links streams at their present tail. Raises Refusal without such a subscription, or with too many of them."""
        row = await self._patiently(_ADD, id, paths, MAX_STREAMS)
        if row["verdict"] == "too_many":
            raise Refusal(Code.TOO_MANY_STREAMS, f"At most {MAX_STREAMS} explicit streams for each subscription")
        if row["verdict"] != "added":
            raise Refusal(*_REFUSALS[row["verdict"]])
        await self._link(tenant_of(id), row["number"])

    async def remove_stream(self, id: str, path: str) -> None:
        """Removes an explicit link, if there is one. Raises Refusal without such a subscription."""
        row = await self._patiently("SELECT run_gateway.remove_subscription_stream($1, $2) AS found", id, path)
        if not row["found"]:
            raise Refusal(*_NOT_FOUND)

    async def claim(self, id: str, worker: str) -> Claim:
        """Gives the worker the lease. Raises Refusal."""
        row = await self._row(
            tenant_of(id), "SELECT * FROM run_gateway.claim_subscription($1, $2, $3)", id, worker, MOST_WORK
        )
        if row["verdict"] == "claimed":
            raise Refusal(
                Code.ALREADY_CLAIMED,
                "Subscription is already claimed",
                current_holder=row["holder"],
                generation=row["generation"],
            )
        if row["verdict"] != "granted":
            raise Refusal(*_REFUSALS[row["verdict"]])
        self._warn(row["lost_event"])
        return Claim(row["wake_id"], row["generation"], _milliseconds(row["lease_ttl"]), _links(row["streams"]))

    async def settle(self, id: str, type: Type | None, token_generation: int | None, settlement: Settlement) -> bool:
        """Applies acks, and extends the lease or ends the wake. Returns whether the next wake follows. Raises Refusal.

        `type`: what the subscription must be. `token_generation` None: the token was not valid.
        """
        acks = {ack.path: ack for ack in settlement.acks}  # of several for one stream, the last
        row = await self._patiently(
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
        self._warn(row["lost_event"])
        return bool(row["next_wake"])

    async def to_wake(self, paths: Sequence[str], most: int) -> list[tuple[int, str | None]]:
        """Notes work for all subscriptions of these streams. Returns those that are idle, each with such a stream."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch("SELECT * FROM run_gateway.work_of($1, $2)", paths, most)
        return [(row["subscription"], row["trigger_path"]) for row in rows]

    async def neglected(self, most: int, *, idle: bool = True) -> list[tuple[int, str | None]]:
        """Subscriptions whose lease has expired, and with `idle` those whose work nobody has seen to.

        Where a log has very many links, work that nobody has heard of is found some calls later: each goes through them
        for a moment, and the next goes on from there.
        """
        if idle:
            await self._seek()
        async with self._database.acquire() as connection:
            rows = await connection.fetch("SELECT * FROM run_gateway.overdue_subscriptions($1, $2)", idle, most)
        return [(row["subscription"], row["trigger_path"]) for row in rows]

    async def _seek(self) -> None:
        until = time.monotonic() + _SEEKING
        while True:
            async with self._database.acquire() as connection:
                row = await connection.fetchrow(
                    "SELECT * FROM run_gateway.seek_work($1, $2, $3)", *self._sought, _SEEK_LINKS
                )
            assert row is not None, "a function's OUT parameters are one row"
            self._sought = (0, "") if row["path"] is None else (row["subscription"], row["path"])
            if row["path"] is None or time.monotonic() > until:
                return

    async def wake(self, wakes: Mapping[int, str | None], *, patient: bool = False) -> Wakes:
        """Wakes those subscriptions that are idle and have work, each with the stream that gave it. Raises Unavailable.

        Waits for nobody; if `patient`, a moment for one stream of wakes, and only those change that are written to it.
        """
        row = await self._row(
            None, "SELECT * FROM run_gateway.wake_subscriptions($1, $2, $3)", list(wakes), list(wakes.values()), patient
        )
        for lost_event in row["lost_events"]:
            self._warn(lost_event)
        for fault in row["faults"]:
            logger.error("A subscription could not be woken; it is tried again: %s", shown(fault))
        return Wakes(row["woken"], row["held"], row["late"])

    async def due(self, most_each: int, most: int) -> list[tuple[int, str, str]]:
        """Deliveries that are due, each with its tenant and host, in turns: at most so many of one host."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch("SELECT * FROM run_gateway.due_webhooks($1, $2)", most_each, most)
        return [(row["subscription"], row["tenant"], row["host"]) for row in rows]

    async def claim_deliveries(self, hold: float, wanted: Sequence[int]) -> list[Delivery]:
        """Claims deliveries that are still due: this Machine makes each, and reports on it within `hold` seconds."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(
                "SELECT * FROM run_gateway.claim_webhooks($1, $2, $3)", wanted, timedelta(seconds=hold), MOST_WORK
            )
        return await in_turns(_deliveries_in_pieces(rows), sum(len(row["streams"]) for row in rows))

    async def delivered(self, delivery: Delivery) -> None:
        """The handler has the wake, and will call back."""
        await self._report(delivery, failed=False, retry_in=None)

    async def failed(self, delivery: Delivery, retry_in: float) -> None:
        """The next attempt is due in so many seconds."""
        await self._report(delivery, failed=True, retry_in=retry_in)

    async def give_back(self, delivery: Delivery) -> None:
        """Gives back a delivery that this Machine will not make: another one may, immediately."""
        await self._report(delivery, failed=False, retry_in=0)

    async def finished(self, delivery: Delivery) -> bool:
        """The handler is done with what the wake told it of (§7.1). Returns whether the next wake follows."""
        row = await self._row(
            tenant_of(delivery.id),
            "SELECT * FROM run_gateway.finish_delivery($1, $2, $3, $4, $5)",
            delivery.subscription,
            delivery.wake_id,
            [link.path for link in delivery.links],
            [link.tail for link in delivery.links],
            [link.stream for link in delivery.links],
        )
        self._warn(row["lost_event"])
        return bool(row["next_wake"])

    async def interest(self, known: Interest | None) -> Interest:
        """The paths and patterns that are subscribed to; `known` itself while nothing has changed since."""
        async with self._database.acquire() as connection:
            # The version is read first, so that what is read after it is at least as new.
            version = await connection.fetchval("SELECT version FROM run_gateway.subscription_changes")
            if known is not None and version == known.version:
                return known
            patterns = await connection.fetch("SELECT id, pattern FROM run_gateway.subscriptions")
            explicit = await connection.fetch(_EXPLICIT, MOST_EXPLICIT + 1)
        return await in_turns(_interest_in_pieces(version, patterns, explicit), EACH * (len(patterns) + len(explicit)))

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

    def _warn(self, lost_event: str | None) -> None:
        if lost_event is None:
            return
        self.unwritten += 1
        now = time.monotonic()
        if now >= self._told_at + _QUIET:
            self._told_at = now
            logger.warning(
                "A wake could not be written to its wake stream; it is tried again, up to a minute later: %s (%d"
                " such tries on this Machine so far)",
                shown(lost_event),
                self.unwritten,
            )

    async def _report(self, delivery: Delivery, *, failed: bool, retry_in: float | None) -> None:
        async with self._database.acquire(tenant_of(delivery.id)) as connection:
            await connection.execute(
                "SELECT run_gateway.report_delivery($1, $2, $3, $4)",
                delivery.subscription,
                delivery.wake_id,
                failed,
                None if retry_in is None else timedelta(seconds=retry_in),
            )

    async def _patiently(self, query: str, id: str, *arguments: Any) -> asyncpg.Record:
        """Runs a statement again while another transaction is in the way. Raises StreamHeld in the end."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                return await self._row(tenant_of(id), query, id, *arguments)
            except StreamHeld:
                if time.monotonic() > until:
                    raise
            await asyncio.sleep(random.uniform(*_STEP_BACK))

    async def _row(self, tenant: str | None, query: str, *arguments: Any) -> asyncpg.Record:
        async with self._database.acquire(tenant) as connection:
            row = await connection.fetchrow(query, *arguments)
        assert row is not None, "a function's OUT parameters are one row"
        return row


def _subscription(row: asyncpg.Record, links: Sequence[Link]) -> Subscription:
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
        row["wake_error"] and row["wake_error"].replace(within(tenant_of(row["id"]), ""), ""),
        links,
    )


def _interest_in_pieces(
    version: int, patterns: Sequence[asyncpg.Record], explicit: Sequence[asyncpg.Record]
) -> Generator[None, None, Interest]:
    globs: dict[str, dict[str, Glob]] = {}
    for number, row in enumerate(patterns, 1):
        pattern, tenant = row["pattern"], tenant_of(row["id"])
        if pattern is not None and pattern not in globs.setdefault(tenant, {}):
            globs[tenant][pattern] = Glob(pattern, tenant)
        if number % _PIECE == 0:
            yield
    paths = Counter(row["tenant"] for row in explicit)
    crowded = frozenset(tenant for tenant, number in paths.items() if number > MOST_EXPLICIT)
    yield
    named = frozenset(row["path"] for row in explicit if row["tenant"] not in crowded)
    return Interest(
        version, len(patterns), {tenant: [*each.values()] for tenant, each in globs.items()}, named, crowded
    )


def _links_in_pieces(streams: str) -> Generator[None, None, list[Link]]:
    links = orjson.loads(streams)
    for first in range(0, len(links), _PIECE):
        yield
        links[first : first + _PIECE] = [Link(*fields) for fields in links[first : first + _PIECE]]
    return links  # type: ignore[no-any-return]


def _deliveries_in_pieces(rows: Sequence[asyncpg.Record]) -> Generator[None, None, list[Delivery]]:
    deliveries, done = [], 0
    for row in rows:
        done += len(row["streams"])
        if done > _PIECE * EACH:
            done = 0
            yield
        deliveries.append(
            Delivery(
                row["subscription"], row["id"], row["url"], row["wake_id"], row["generation"], row["retry_count"],
                _links(row["streams"]),
            )
        )  # fmt: skip
    return deliveries


def _links(streams: str) -> list[Link]:
    return at_once(_links_in_pieces(streams))


def _milliseconds(interval: timedelta) -> int:
    return interval // timedelta(milliseconds=1)
