"""No statement reads a table that grows: what each call reads is counted, in a log of many streams.

Counted by Postgres itself within a transaction, so statements inside functions count too, under whatever settings they
set. Planned on what is there, as on a table of millions: a plan that reads a whole table of this size would read all of
a larger one.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import asyncpg
import pytest
import pytest_asyncio

from gateway.log import reader
from gateway.runs import store as runs
from tests.databases import Postgres
from tests.log.rig import connected

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

STREAMS: Final = int(os.environ.get("PLANS_OF_STREAMS", "20000"))  # a million by hand: it takes some minutes
OPEN: Final = STREAMS * 9 // 20
ENDED: Final = STREAMS * 9 // 10
MOST: Final = 300  # rows that one call may read of all tables together; each has to do with ten streams at most
MOST_LINKS: Final = 4_300  # where the first thousand links of a subscription are asked, each with its stream

# Streams: 1 to OPEN with a TTL and a lease; to ENDED closed; the rest are runs, of which the last has forks.
FILL = f"""
    SET session_replication_role = replica;   -- triggers are not what is looked at
    INSERT INTO run_gateway.streams (path, content_type, media_type, tail, closed, closed_at, ttl, expires_at, lease,
                                     lease_until)
    SELECT CASE WHEN i > {ENDED} THEN 'runs/' || i ELSE 's/' || i END, 'application/json', 'application/json', 1,
           i > {OPEN} AND i <= {ENDED}, CASE WHEN i > {OPEN} AND i <= {ENDED} THEN now() END,
           CASE WHEN i <= {OPEN} THEN 3600 END, CASE WHEN i <= {OPEN} THEN now() + interval '1 hour' END,
           CASE WHEN i <= {OPEN} THEN 60 END, CASE WHEN i <= {OPEN} THEN now() + interval '1 hour' END
      FROM generate_series(1, {STREAMS}) i;
    INSERT INTO run_gateway.events SELECT id, 1, '1' FROM run_gateway.streams;
    INSERT INTO run_gateway.producers SELECT id, 'p', 0, 0 FROM run_gateway.streams;
    INSERT INTO run_gateway.pages SELECT id + 1000000000, 1, 1, '1', '{{1}}' FROM run_gateway.streams;
    INSERT INTO run_gateway.expiries SELECT id, expires_at FROM run_gateway.streams WHERE ttl IS NOT NULL;
    INSERT INTO run_gateway.leases SELECT id, lease_until FROM run_gateway.streams WHERE lease IS NOT NULL;
    INSERT INTO run_gateway.runs (stream, tenant, id, started_at, metadata)
    SELECT id, '', substring(path FROM 6), now(), '{{"user": "u"}}' FROM run_gateway.streams WHERE path ~ '^runs/';
    INSERT INTO run_gateway.subscriptions (id, type, lease_ttl, config_hash) VALUES ('one', 'pull-wake', '1 s', '');
    INSERT INTO run_gateway.subscription_links
    SELECT 1, path, id, 1, false, true, false FROM run_gateway.streams;
    INSERT INTO run_gateway.recordings SELECT id, 'r', NULL, NULL FROM run_gateway.streams;
    INSERT INTO run_gateway.recording_keys SELECT int8send(id), id, NULL FROM run_gateway.streams;
    INSERT INTO run_gateway.subscription_work SELECT 2, path FROM run_gateway.streams;
    SET session_replication_role = origin;
    UPDATE run_gateway.streams SET forks = 1 WHERE path = 'runs/{STREAMS}';
    ANALYZE;
"""

RUN, TTL = f"runs/{STREAMS}", "s/1"
PRODUCED = (
    "SELECT * FROM run_gateway.append_batch(ARRAY[$1, $2], ARRAY['application/json', 'application/json'], '{1,1}',"
    " '{false,true}', NULL, '{p,p}', '{0,0}', '{1,1}', '{1,2}', '{1,1}', '{1,1}', '{30,30}')"
)
PLAIN = "SELECT * FROM run_gateway.append_plain(ARRAY[$1, $2], 'application/json', 1, '{1,2}', '{1,1}', '{1,1}')"
ONE = "SELECT run_gateway.append_one($1, 'application/json', $2, NULL, 'p', 0, 1, '{1}', 30)"
MAKE = (
    "SELECT run_gateway.make_stream($1, 'application/json', 'application/json', $2, NULL, NULL, false, $3, NULL, NULL,"
    " '{1}', NULL, 100, 10000)"
)
CALLS: dict[str, tuple[str, tuple[object, ...]]] = {
    "append, alone": ("SELECT run_gateway.append_alone($1, 'application/json', '{1}', NULL)", (TTL,)),
    "append, plain": (PLAIN, (RUN, TTL)),
    "append, one": (ONE, (TTL, False)),
    "append, and close a run": (ONE, (RUN, True)),
    "append, of producers": (PRODUCED, (TTL, RUN)),
    "append from SQL": ("SELECT run_gateway.append($1, '1')", (TTL,)),
    "create from SQL": ("SELECT run_gateway.create('runs/new', lease => 30, ttl => 60)", ()),
    "create": (MAKE, ("new", 60, None)),
    "create what is there": (MAKE, (TTL, 3600, None)),
    "fork": (MAKE, ("new", None, RUN)),
    "delete": ("SELECT run_gateway.delete_stream('m', $1)", (TTL,)),
    "delete a run": ("SELECT run_gateway.delete_stream('m', $1)", (f"runs/{ENDED + 1}",)),
    "page": (reader._PAGE, (TTL, 0, None, 1 << 20, True, None, None, None, None)),
    "page of many": (reader._PAGE, (RUN, 0, None, 1 << 16, True, None, None, None, 1 << 12)),
    "edge of a text": ("SELECT run_gateway.edge($1, 3)", (OPEN + 1,)),
    "stat": (reader._STAT, (TTL,)),
    "streams": (reader._STREAMS, ([TTL, RUN, "none"],)),
    "positions": (reader._POSITIONS, ([TTL, RUN, "none"],)),
    "touch": ("SELECT run_gateway.touch($1)", ([TTL, "s/2", RUN, "none"],)),
    "held": ("SELECT run_gateway.held($1)", ([TTL, RUN],)),
    "purge": ("SELECT run_gateway.purge(100)", ()),
    "retire": ("SELECT run_gateway.retire($1, 5)", (timedelta(hours=1),)),
    "retire recordings": ("SELECT run_gateway.retire_next_recordings(10, '1 hour', 50)", ()),
    "forget keys": ("SELECT run_gateway.forget_next_keys('', 50)", ()),
    "packable": ("SELECT run_gateway.packable(0, 10, 1500)", ()),
    "pack": ("SELECT run_gateway.pack_page($1, 65536, 1000, 500)", (OPEN + 1,)),
    "leases": ("SELECT run_gateway.end_lost_runs('m', 500, true)", ()),
    "record": (runs._RECORD, (RUN,)),
    "cancel": (runs._CANCEL, ("m", RUN, None)),
    "list": (f"{runs._LIST} ORDER BY r.stream DESC LIMIT 10", ("",)),
    "list by status": (f"{runs._LIST} AND r.status = $2 ORDER BY r.stream DESC LIMIT 10", ("", "active")),
    "wake": ("SELECT * FROM run_gateway.subscriptions_to_wake($1, 10)", ([TTL, RUN],)),
    "work": ("SELECT * FROM run_gateway.work_of($1, 10)", ([TTL, RUN],)),
    "seek": ("SELECT run_gateway.seek_work(1, 's/1', 50)", ()),
    "overdue": ("SELECT run_gateway.overdue_subscriptions(true, 10)", ()),
    "neglected, to the version before": ("SELECT run_gateway.neglected_subscriptions(true, 10)", ()),
    "first pending": ("SELECT run_gateway.first_pending(1)", ()),
    "wake one": ("SELECT run_gateway.wake_unless(1, NULL, NULL)", ()),
    "wake one, by its trigger": ("SELECT run_gateway.wake_unless(1, $1, NULL)", (TTL,)),
    "work of a wake": ("SELECT run_gateway.links_of(1, false, 1000)", ()),
    "links of a subscription": ("SELECT run_gateway.links_of(1, true, 1000)", ()),
    "claim": ("SELECT run_gateway.claim_subscription('one', 'w', 1000)", ()),
    "ack": ("SELECT run_gateway.advance_links(1, ARRAY[$1], '{1}', NULL)", (TTL,)),
    "tidy": ("SELECT run_gateway.tidy_next(1, 's/1', 10)", ()),
}
OF_LINKS: Final = {
    *("neglected, to the version before", "first pending", "wake one", "wake one, by its trigger"),
    *("work of a wake", "links of a subscription", "claim"),
}
READ = """
    SELECT coalesce(sum(seq_tup_read), 0)::bigint + coalesce(sum(idx_tup_fetch), 0)::bigint AS rows,
           array_agg(relname) FILTER (WHERE seq_scan > 0) AS scanned,
           (SELECT coalesce(max(pg_stat_get_xact_tuples_returned(i.indexrelid)), 0) FROM pg_index i
             JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = 'run_gateway'::regnamespace) AS entries
      FROM pg_stat_xact_user_tables
     WHERE relname NOT IN ('housekeeping', 'lease_looks', 'subscriptions', 'subscription_changes', 'under_way')
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def large(postgres: Postgres) -> AsyncIterator[str]:
    """A log of many streams."""
    async with postgres.database() as url:
        async with connected(url) as connection:
            await connection.execute(FILL)
            await connection.execute("VACUUM ANALYZE")
        yield url


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_reads_what_it_is_about(large: str, call: str) -> None:
    statement, arguments = CALLS[call]
    async with connected(large) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.fetch(statement, *arguments)
        read = await connection.fetchrow(READ)
        await transaction.rollback()
    assert read is not None
    assert read["scanned"] is None
    most = MOST_LINKS if call in OF_LINKS else MOST
    assert read["rows"] <= most
    assert read["entries"] <= most


async def test_an_index_is_not_walked_to_its_end_for_what_is_not_due(large: str) -> None:
    """The kind of clock_timestamp() in a condition: nothing is due, and every entry is looked at all the same."""
    async with connected(large) as connection, connection.transaction():
        for name in ("purge", "retire", "leases"):
            await connection.fetch(CALLS[name][0], *CALLS[name][1])
        read = await connection.fetchrow(READ)
        assert read is not None
        assert (read["rows"], read["entries"]) <= (20, 20)
