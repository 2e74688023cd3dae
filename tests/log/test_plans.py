"""No statement reads a table that grows: what each call reads is counted, in a log of many streams.

Counted by Postgres itself within a transaction, so statements inside functions count too, under whatever settings they
set. Planned on what is there, as on a table of millions: a plan that reads a whole table of this size would read all of
a larger one. Which statements there are is asked of the code: see the last test. At full size, in some minutes:
`PLANS_OF_STREAMS=1000000 pytest tests/log/test_plans.py`.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import pytest
import pytest_asyncio

import gateway
from gateway.log import lifecycle, reader
from gateway.owner import store as owner
from gateway.relay import store as relay
from gateway.runs import quota
from gateway.runs import store as runs
from gateway.runs.queries import ListRequest
from gateway.subscriptions import store as subscriptions
from tests.databases import Postgres
from tests.log.rig import connected

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

STREAMS: Final = int(os.environ.get("PLANS_OF_STREAMS", "20000"))  # a million by hand: it takes some minutes
OPEN: Final = STREAMS * 9 // 20
ENDED: Final = STREAMS * 9 // 10
EARLY: Final = STREAMS * 19 // 20  # half of the runs are another tenant's, and older
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
    INSERT INTO run_gateway.runs (stream, tenant, id, started_at, metadata, created_by)
    SELECT id, CASE WHEN id <= {EARLY} THEN 'early' ELSE '' END, substring(path FROM 6), now(), '{{"user": "u"}}',
           CASE WHEN id > {STREAMS - 2} THEN '7'::xid8 ELSE pg_current_xact_id() END
      FROM run_gateway.streams WHERE path ~ '^runs/';
    INSERT INTO run_gateway.subscriptions (id, type, lease_ttl, config_hash) VALUES ('one', 'pull-wake', '1 s', '');
    INSERT INTO run_gateway.subscription_links
    SELECT 1, path, id, 1, false, true, false FROM run_gateway.streams;
    INSERT INTO run_gateway.recordings SELECT id, 'r', NULL, NULL FROM run_gateway.streams;
    INSERT INTO run_gateway.recording_keys SELECT int8send(id), id, NULL FROM run_gateway.streams;
    INSERT INTO run_gateway.subscription_work SELECT 2, path FROM run_gateway.streams;
    INSERT INTO run_gateway.owner_lives (life, machine, address, app) VALUES (1, gen_random_uuid(), '', '');
    INSERT INTO run_gateway.owned SELECT int8send(id), '', 'r', int8send(id), 1, id FROM run_gateway.streams;
    INSERT INTO run_gateway.removed_runs (stream, tenant, id, status, started_at, removed_by)
    SELECT id, '', id::text, 'completed', now(), id::text::xid8 FROM run_gateway.streams;
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
    "SELECT run_gateway.make_stream_v2($1, 'application/json', 'application/json', $2, NULL, NULL, false, $3, NULL,"
    " NULL, '{1}', NULL, 100, 10000, '{1}', '{2}', '{1}', '{1,1}')"
)


def listed(tenant: str = "", **request: Any) -> tuple[str, tuple[object, ...]]:
    """The statement of a page of ten runs, and its arguments."""
    any_run: dict[str, Any] = {"status": None, "workflow_name": None, "metadata": [], "limit": 9, "before": None}
    statement, arguments = runs._list_of(ListRequest(**any_run | request), tenant)
    return statement, tuple(arguments)


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
    "held": ("SELECT run_gateway.held($1, '{f,f}', '{f,f}')", ([TTL, RUN],)),
    "purge": ("SELECT run_gateway.purge_next(0, 100)", ()),
    "retire": ("SELECT run_gateway.retire_next('-infinity', $1, 5)", (timedelta(hours=1),)),
    "retire recordings": ("SELECT run_gateway.retire_next_recordings(10, '1 hour', 50)", ()),
    "forget keys": ("SELECT run_gateway.forget_next_keys('', 50)", ()),
    "silence": ("SELECT run_gateway.silence('5 minutes')", ()),
    "packable": ("SELECT run_gateway.packable_v2(0, 10, 1500, 1000)", ()),
    "pack what is silent": ("SELECT run_gateway.pack_whole(ARRAY[$1, $2]::bigint[], 65536, 1000)", (1, OPEN + 1)),
    "pack": ("SELECT run_gateway.pack_page($1, 65536, 1000, 500)", (OPEN + 1,)),
    "leases": ("SELECT run_gateway.end_lost_runs('m', 500, true)", ()),
    "record": (runs._RECORD, (RUN,)),
    "cancel": (runs._CANCEL, ("m", RUN, None)),
    "list": listed(),
    "list by status": listed(status="active"),
    "list by workflow": listed(workflow_name="w"),
    "list by metadata": listed(metadata=[['{"user": "u"}', '{"user": 1}']]),
    "list, the last page": listed(before=EARLY + 20),
    "list of a tenant whose runs are old": listed("early"),
    "wake": ("SELECT * FROM run_gateway.subscriptions_to_wake($1, 10)", ([TTL, RUN],)),
    "work": ("SELECT * FROM run_gateway.work_of($1, 10)", ([TTL, RUN],)),
    "seek": ("SELECT run_gateway.seek_work(1, 's/1', 50)", ()),
    "overdue": ("SELECT run_gateway.overdue_subscriptions(true, 10)", ()),
    "first pending": ("SELECT run_gateway.first_pending(1)", ()),
    "wake one": ("SELECT run_gateway.wake_unless(1, NULL, NULL)", ()),
    "wake one, by its trigger": ("SELECT run_gateway.wake_unless(1, $1, NULL)", (TTL,)),
    "work of a wake": ("SELECT run_gateway.links_of(1, false, 1000)", ()),
    "links of a subscription": ("SELECT run_gateway.links_of(1, true, 1000)", ()),
    "claim": ("SELECT run_gateway.claim_subscription('one', 'w', 1000)", ()),
    "begin a run": (
        "SELECT run_gateway.begin_run('runs/new', '', 'application/json', 'application/json', 60, 30, 'w', NULL, '{}',"
        " NULL)",
        (),
    ),
    "record of a run without a TTL": (runs._WITHOUT_TTL, (RUN,)),
    "type of a stream": (lifecycle._CONTENT_TYPE, (RUN,)),
    "missing": (reader._MISSING, ([TTL, RUN], [1, STREAMS], [5, 5])),
    "activity": (runs._ACTIVITY, (1,)),
    "cancel one that is told": (runs._CANCEL_BOUND, ("m", RUN, None, STREAMS)),
    "control": (runs._CONTROL, (RUN,)),
    "open a control": (runs._OPEN_CONTROL, (RUN,)),
    "ids of runs": (runs._IDS, ("", [STREAMS, STREAMS - 1])),
    "list as of a snapshot": (runs._AS_OF.format(listed()[0]), listed()[1]),
    "changes of a list": (runs._AS_OF.format(runs._CHANGED), ("", 1 << 40, [], 0, 10)),
    "changes by what was running": (runs._AS_OF.format(runs._CHANGED), ("", 1 << 40, [7, 8], 0, 10)),
    "runs of a tenant": (quota._COUNT, ("", STREAMS - 50, 100)),
    "is it there": (quota._EXISTS, (RUN,)),
    "begin a recording": (
        "SELECT run_gateway.begin_recording('runs/r', 'r', 'text/plain', 'text/plain', 30, NULL, NULL, NULL, NULL)",
        (),
    ),
    "claim a recording": (
        "SELECT run_gateway.claim_recording(int8send(1), true, '1 s', 'runs/r', 'r', 'text/plain', 'text/plain', 30,"
        " NULL, NULL, NULL)",
        (),
    ),
    "name a recording": ("SELECT run_gateway.name_recording('new', 1)", ()),
    "answer of a recording": (relay._ANSWER, (1, [])),
    "release a recording": ("SELECT run_gateway.release_recording('m', int8send(5), 5)", ()),
    "lose a recording": ("SELECT run_gateway.lose_recording('m', $1, 'r', 0)", (RUN,)),
    "keep a recording": (relay._KEEP, (1, "{}", False, None)),
    "forget a recording": (relay._FORGET, (1,)),
    "recordings of conversations": (relay._UNFINISHED, ([b"1", b"2"],)),
    "hand a recording over": ("SELECT run_gateway.hand_over_recording(1, 0)", ()),
    "take recordings": ("SELECT run_gateway.take_recordings('{r}', 10, 1)", ()),
    "taken recordings": (relay._TAKEN, ([1, 2], [0, 0])),
    "find a recording": (relay._FIND, (b"1", timedelta(1))),
    "look for a recording": (relay._LOOK, (RUN, timedelta(1))),
    "recordings that are read": (relay._READ, ([1, 2],)),
    "since when it is unread": (relay._UNREAD, (1,)),
    "own": ("SELECT run_gateway.own('new', '', 'r', '', 1)", ()),
    "owner": ("SELECT run_gateway.owner_of(int8send(1))", ()),
    "owners": (owner._OWNERS, ([bytes(8), bytes(7) + b"1"],)),
    "give back": (owner._GIVE_BACK, ([bytes(7) + b"1"], 1)),
    "move": (owner._MOVE, (bytes(7) + b"1", 1, 1)),
    "owned by a life": (owner._PAGE, (1, bytes(7) + b"1", 10)),
    "adopt": (owner._ADOPT, ([bytes(7) + b"1"], 1, 1)),
    "begin a subscription": (
        "SELECT run_gateway.begin_subscription('new', 'pull-wake', 'x/*', 'x', '^/x/[^/]+$', ARRAY[$1], NULL, 'w',"
        " '1 s', NULL, '', 100)",
        (TTL,),
    ),
    "link explicitly": ("SELECT run_gateway.add_explicit_streams('one', ARRAY[$1], 100)", (TTL,)),
    "unlink": ("SELECT run_gateway.remove_subscription_stream('one', $1)", (TTL,)),
    "subscription": (subscriptions._GET, ("one", 1_000)),
    "explicit links": (subscriptions._EXPLICIT, (10,)),
    "wake several": ("SELECT * FROM run_gateway.wake_subscriptions('{1}', ARRAY[$1], false)", (TTL,)),
    "settle": ("SELECT run_gateway.settle_wake('one', 'pull-wake', 0, 0, '', ARRAY[$1], '{1}', true)", (TTL,)),
    "finish": ("SELECT run_gateway.finish_delivery(1, '', ARRAY[$1], '{1}', '{1}')", (TTL,)),
    "delete a subscription": ("SELECT run_gateway.delete_subscription('one')", ()),
    "ack": ("SELECT run_gateway.advance_links(1, ARRAY[$1], '{1}', NULL)", (TTL,)),
    "tidy": ("SELECT run_gateway.tidy_next(1, 's/1', 10)", ()),
}
OF_LINKS: Final = {
    *("first pending", "wake one", "wake one, by its trigger"),
    *("work of a wake", "links of a subscription", "claim", "subscription", "wake several"),
}
# What reads no table that grows with streams: one row of each Machine, key, life or subscription, or nothing at all.
SMALL: Final = {
    *(
        "housekeeping",
        "keeps_house",
        "server",
        "identify",
        "written",
        "new_epoch",
        "migrations",
        "channel",
        "cut",
        "listen",
        "ping",
        "tell",
    ),
    *(
        "subscription_keys",
        "subscription_changes",
        "subscriptions",
        "due_webhooks",
        "report_delivery",
        "recording_secret",
    ),
    *("owner_lives", "owner_epochs", "begin_life", "flue_processes", "token_counts"),
    *("marked", "number", "shared", "milliseconds", "live"),  # of what has been read
}
# What the calls above are parts of.
PARTS: Final = {
    "append": "its four ways, and SQL's own",
    "claim_webhooks": "the links of a subscription",
    "link_next": "the streams of a pattern, some at a time, once",
    "flue_end_silent": "tables of a Flue app, which its own tests look at",
}  # fmt: skip
READ = """
    SELECT coalesce(sum(seq_tup_read), 0)::bigint + coalesce(sum(idx_tup_fetch), 0)::bigint AS rows,
           array_agg(relname) FILTER (WHERE seq_scan > 0) AS scanned,
           (SELECT coalesce(max(pg_stat_get_xact_tuples_returned(i.indexrelid)), 0) FROM pg_index i
             JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = 'run_gateway'::regnamespace) AS entries
      FROM pg_stat_xact_user_tables
     WHERE relname NOT IN ('housekeeping', 'lease_looks', 'subscriptions', 'subscription_changes', 'under_way',
                           'server', 'owner_lives')
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


async def test_a_list_looks_for_its_streams_one_by_one(large: str) -> None:
    """Any other join may read all streams, and here it would be chosen: it alone is not switched off."""
    async with connected(large) as connection, connection.transaction():
        await connection.execute("SET LOCAL enable_nestloop = off")
        for call in ("list", "list, the last page", "changes of a list", "changes by what was running"):
            statement, arguments = CALLS[call]
            plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {statement}", *arguments))
            assert not re.search(r"(Merge|Hash).* Join", plan), f"{call}:\n{plan}"


async def test_an_index_is_not_walked_to_its_end_for_what_is_not_due(large: str) -> None:
    """The kind of clock_timestamp() in a condition: nothing is due, and every entry is looked at all the same."""
    async with connected(large) as connection, connection.transaction():
        for name in ("purge", "retire", "leases"):
            await connection.fetch(CALLS[name][0], *CALLS[name][1])
        read = await connection.fetchrow(READ)
        assert read is not None
        assert (read["rows"], read["entries"]) <= (
            120,
            120,
        )  # runs that were removed lately are looked at by the hundred


def statements() -> Iterator[tuple[str, str]]:
    """Every text over the log that the gateway's Python has, and where: as it is written, and as it is put together."""
    folder = Path(gateway.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        if path.is_relative_to(folder / "client") or "run_gateway." not in path.read_text():
            continue
        name = ".".join(["gateway", *path.relative_to(folder).with_suffix("").parts])
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{name}, line {node.lineno}", node.value
        for constant, value in vars(import_module(name)).items():
            if isinstance(value, str):
                yield f"{name}.{constant}", value


def test_every_statement_of_the_code_is_among_them() -> None:
    """Its text, or of one that asks for a function alone the function's name."""
    calls = [" ".join(statement.split()) for statement, _ in CALLS.values()]
    asked = {name for call in calls for name in re.findall(r"run_gateway\.(\w+)\(", call)} | SMALL | set(PARTS)
    unknown = []
    for where, text in statements():
        names = set(re.findall(r"run_gateway\.(\w+)", text))
        if not names or not re.search(r"\b(SELECT|CALL|INSERT|UPDATE|DELETE)\b", text):
            continue
        parts = re.split(r"\{[^}]*\}", " ".join(text.split()))
        if not names <= asked and not any(all(part.strip() in call for part in parts) for call in calls):
            unknown.append(f"{where}: {text}")
    assert not unknown, "not among CALLS:\n" + "\n".join(unknown)
