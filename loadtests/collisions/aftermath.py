"""What must be true of the tables when everybody has stopped, whatever happened before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadtests.collisions.findings import FORKS, HOLES, HOUSEKEEPING, LEASES, LINKS, RECORDS
from loadtests.survival.ledger import Findings

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

# Streams that are looked at again after five seconds, because somebody held them, are not late before this.
STOPPED = "SELECT set_config('collisions.stopped', clock_timestamp()::text, false)"  # to be called at that moment
LATE = "current_setting('collisions.stopped')::timestamptz - interval '10 seconds'"
QUESTIONS = (
    (HOUSEKEEPING, "expired long ago and is still there", f"""
        SELECT s.path FROM run_gateway.streams s LEFT JOIN run_gateway.expiries e ON e.stream = s.id
         WHERE s.path IS NOT NULL AND NOT s.gone
           AND greatest(s.expires_at, e.kept_until) < {LATE}"""),
    (HOUSEKEEPING, "has an end that nobody will ever look for", """
        SELECT s.path FROM run_gateway.streams s WHERE s.path IS NOT NULL AND NOT s.gone AND s.expires_at IS NOT NULL
           AND NOT EXISTS (SELECT FROM run_gateway.expiries e WHERE e.stream = s.id)"""),
    (HOUSEKEEPING, "is a removed source without forks and is still there", """
        SELECT s.path FROM run_gateway.streams s WHERE s.path IS NOT NULL AND s.gone AND s.forks = 0"""),
    (LEASES, "has a lease that nobody will ever look at", """
        SELECT s.path FROM run_gateway.streams s WHERE s.path IS NOT NULL AND NOT s.closed AND NOT s.gone
           AND s.lease IS NOT NULL AND NOT EXISTS (SELECT FROM run_gateway.leases l WHERE l.stream = s.id)"""),
    (LEASES, "has outlived its lease", f"""
        SELECT s.path FROM run_gateway.streams s WHERE s.path IS NOT NULL AND NOT s.closed AND NOT s.gone
           AND s.lease_until < {LATE}"""),
    (RECORDS, "is a closed run whose record or control stream has not ended, or a run without a record", """
        SELECT s.path FROM run_gateway.streams s LEFT JOIN run_gateway.runs r ON r.stream = s.id
          LEFT JOIN run_gateway.streams c ON c.path = s.path || '/control'
         WHERE run_gateway.is_run(s.path) AND NOT s.gone
           AND (r.stream IS NULL OR s.closed <> (r.status <> 'active') OR (s.closed AND NOT c.closed))"""),
    (RECORDS, "is the record or the lease of no run", """
        SELECT r.id FROM run_gateway.runs r
         WHERE NOT EXISTS (SELECT FROM run_gateway.streams s WHERE s.id = r.stream)"""),
    (RECORDS, "is still under way when all transactions have ended", "SELECT stream::text FROM run_gateway.under_way"),
    (FORKS, "counts its forks wrongly", """
        SELECT s.path FROM run_gateway.streams s WHERE s.forks <> (
            SELECT count(*) FROM run_gateway.streams f WHERE f.fork_source = s.id AND f.path IS NOT NULL)"""),
    (LINKS, "is not known to the subscription that takes it", """
        SELECT s.path FROM run_gateway.streams s JOIN run_gateway.subscriptions u ON run_gateway.covers(u, s.path)
         WHERE NOT s.gone AND NOT EXISTS (
            SELECT FROM run_gateway.subscription_links l WHERE l.subscription = u.number AND l.stream = s.id)"""),
    (LINKS, "is acked beyond its tail, or settled too early", """
        SELECT l.path FROM run_gateway.subscription_links l JOIN run_gateway.streams s ON s.id = l.stream
         WHERE l.acked > s.tail OR (l.settled AND NOT (s.closed AND l.acked >= s.tail))"""),
    (HOLES, "does not hold each of its events once, as a row or in a page", """
        SELECT s.path FROM run_gateway.streams s WHERE s.path IS NOT NULL
           AND s.tail - coalesce(s.lineage_ends[cardinality(s.lineage_ends)], 0) <>
               (SELECT count(*) FROM run_gateway.events e WHERE e.stream = s.id)
             + (SELECT coalesce(sum(p.last - p.first + 1), 0) FROM run_gateway.pages p WHERE p.stream = s.id)"""),
)  # fmt: skip


async def look(connection: Connection) -> Findings:
    """Everything that is wrong with the tables. Nobody else may be calling anything."""
    findings = Findings()
    for kind, note, question in QUESTIONS:
        found = [row[0] for row in await connection.fetch(question)]
        findings.add(kind, f"{', '.join(map(str, found[:3]))} {note}", len(found))
    return findings
