"""A log that has been in use for long: rows as appends, closes and packing leave them, without their work.

Each run holds the events of a recorded chat, in pages; nine of ten have ended, over the last hundred days and in the
order in which they began, the others are open and silent. Runs share the bytes of VARIANTS recordings, which no two
rows of Postgres compress together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import asyncpg

from gateway.log.page_arrays import Pages
from loadtests.probes.packing import events

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

VARIANTS: Final = 100
CHUNK: Final = 20_000  # runs of one transaction
LONG: Final = 2  # runs whose catch-up is measured
LONG_EVENTS: Final = 20_000
DAYS: Final = 100  # over which they have ended
OF_USER: Final = 100  # runs of each user

_BODIES: Final = """
    CREATE TEMP TABLE bodies (
        variant integer, first bigint, last bigint, body bytea, lengths integer[])
"""
_SUBSCRIPTION: Final = """
    INSERT INTO run_gateway.streams (path, content_type, media_type)
    VALUES ('wakes', 'application/json', 'application/json');
    INSERT INTO run_gateway.subscriptions (
        id, type, pattern, pattern_head, pattern_regex, wake_stream, lease_ttl, config_hash)
    VALUES ('all', 'pull-wake', 'runs/*', 'runs', '^/runs/[^/]+$', 'wakes', '1 minute', '');
    UPDATE run_gateway.subscription_changes SET version = version + 1;
"""
_FILL: Final = f"""
    WITH made AS (
        INSERT INTO run_gateway.streams (
            path, content_type, media_type, tail, closed, closed_at, packed, ttl, expires_at, lease, lease_until,
            created_at, served)
        SELECT $1 || i, 'application/json', 'application/json', $4, i % 10 <> 0,
               CASE WHEN i % 10 <> 0 THEN now() - (1 - i / $5::float8) * interval '{DAYS} days' END, true,
               CASE WHEN i % 20 = 0 THEN 8640000 END, CASE WHEN i % 20 = 0 THEN now() + interval '90 days' END,
               CASE WHEN i % 100 = 10 THEN 3600 END, CASE WHEN i % 100 = 10 THEN now() + interval '1 day' END,
               now() - interval '{DAYS} days', pg_postmaster_start_time()
          FROM generate_series($2::bigint, $3::bigint) i
        RETURNING id, path, closed, closed_at, expires_at, lease_until
    ), recorded AS (
        INSERT INTO run_gateway.runs (
            stream, tenant, id, workflow_name, status, started_at, ended_at, is_error, metadata)
        SELECT m.id, '', substring(m.path FROM 6), 'flow-' || m.id % 20,
               CASE WHEN NOT m.closed THEN 'active' WHEN m.id % 50 = 1 THEN 'errored' ELSE 'completed' END,
               coalesce(m.closed_at, now()) - interval '1 minute', m.closed_at,
               CASE WHEN m.closed THEN m.id % 50 = 1 END,
               jsonb_build_object(
                   'user', 'u' || m.id % $6, 'plan', CASE WHEN m.id % 9 = 0 THEN 'pro' ELSE 'free' END)
          FROM made m
    ), produced AS (
        INSERT INTO run_gateway.producers SELECT m.id, 'agent', 0, $4 - 1 FROM made m WHERE m.id % 2 = 0
    ), leased AS (
        INSERT INTO run_gateway.leases (stream, check_at)
        SELECT m.id, m.lease_until FROM made m WHERE m.lease_until IS NOT NULL
    ), expiring AS (
        INSERT INTO run_gateway.expiries (stream, check_at)
        SELECT m.id, m.expires_at FROM made m WHERE m.expires_at IS NOT NULL
    ), linked AS (
        INSERT INTO run_gateway.subscription_links (subscription, path, stream, acked, explicit, glob, settled)
        SELECT s.number, m.path, m.id, $4, false, true, m.closed
          FROM made m CROSS JOIN run_gateway.subscriptions s WHERE s.id = 'all'
    )
    INSERT INTO run_gateway.pages (stream, last, first, body, lengths)
    SELECT m.id, b.last, b.first, b.body, b.lengths FROM made m JOIN bodies b ON b.variant = m.id % {VARIANTS}
"""


@dataclass(frozen=True)
class Shape:
    """How many runs, of how many events each."""

    runs: int
    each: int

    @property
    def events(self) -> int:
        return self.runs * self.each


def users(runs: int) -> int:
    return max(runs // OF_USER, 1)


async def fill(url: str, shape: Shape, tell: Callable[[str], None]) -> None:
    """Makes the runs `runs/old-0` and so on, and LONG of LONG_EVENTS each, `runs/long-0` and so on."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET session_replication_role = replica")  # triggers would do some of this once more
        await connection.execute("SET synchronous_commit = off")
        await connection.execute(_SUBSCRIPTION)
        await _fill(connection, "runs/long-", LONG, LONG_EVENTS, tell)
        await _fill(connection, "runs/old-", shape.runs, shape.each, tell)
        await connection.execute("VACUUM (FREEZE, ANALYZE)")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def _fill(connection: Connection, head: str, runs: int, each: int, tell: Callable[[str], None]) -> None:
    await connection.execute(_BODIES)
    for variant in range(VARIANTS):
        some = list(events(each, variant))
        pages = Pages()
        pages.add(1, b",".join(some), list(map(len, some)), 1)
        first, rows = 0, []
        for count, body in zip(pages.counts, pages.bodies, strict=True):
            rows.append((variant, first + 1, first + count, body, pages.lengths[first : first + count]))
            first += count
        await connection.copy_records_to_table("bodies", records=rows)
        if variant > runs + LONG:  # those of the long ones, and of the stream of wakes, have had their turn
            break
    for start in range(0, runs, CHUNK):
        await connection.execute(_FILL, head, start, min(start + CHUNK, runs) - 1, each, runs, users(runs))
        tell(f"{min(start + CHUNK, runs):,} of {runs:,} runs of {each:,} events are made")
    await connection.execute("DROP TABLE bodies")
