"""A role that may create in `public` gets no function or operator of its own called by the log's.

Postgres prefers what fits the arguments exactly to what takes any type, wherever its search path finds it: a function
`public.cardinality(bigint[])` goes before `pg_catalog.cardinality(anyarray)`, and runs as whoever calls it. What the
driver asks about types when it connects is its own: a role whose search path is empty is proof against that as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import asyncpg
import pytest
import pytest_asyncio

from gateway.log.housekeeping import Housekeeping
from gateway.protocol.append import AppendRequest, Producer
from gateway.protocol.create import Fork
from gateway.runs.store import Store
from tests.databases import Postgres
from tests.log.rig import JSON, Log, connected, opened

TYPES: Final = ("text", "bigint", "integer", "boolean", "bytea", "timestamptz", "jsonb", "json")
FUNCTIONS: Final = {
    "{t}[]": ("unnest", "cardinality", "array_agg"),
    "{t}": ("array_agg", "to_json", "to_jsonb", "num_nonnulls", "concat", "jsonb_agg", "count", "max", "min"),
    "{t}[], {t}": ("array_append", "array_position"),
    "{t}, integer[]": ("array_fill",),
    "{t}, {t}": ("num_nonnulls", "concat", "concat_ws"),
    "text, {t}": ("format", "concat_ws", "jsonb_build_object", "concat"),
    "text, {t}, {t}": ("format", "concat_ws", "concat"),
}
OPERATORS: Final = (
    *(("=", f"{t}[]", f"{t}[]") for t in TYPES),
    *(("<>", f"{t}[]", f"{t}[]") for t in TYPES),
    *(("||", f"{t}[]", t) for t in TYPES),
    *(("||", f"{t}[]", f"{t}[]") for t in TYPES),
    *(("||", "text", t) for t in TYPES if t not in ("text",)),
    ("*", "integer", "interval"),
    ("*", "bigint", "interval"),
    ("*", "interval", "integer"),
)


async def set_traps(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Each says so, once it is called."""
    for arguments, names in FUNCTIONS.items():
        for name in names:
            for type in TYPES:
                await connection.execute(
                    f"CREATE OR REPLACE FUNCTION public.{name}({arguments.format(t=type)}) RETURNS text"
                    f" LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped by {name}'; END $$"
                )
    for number, (operator, left, right) in enumerate(OPERATORS):
        await connection.execute(
            f"CREATE FUNCTION public.trap_{number}({left}, {right}) RETURNS boolean"
            f" LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped by {operator}'; END $$;"
            f"CREATE OPERATOR public.{operator} (FUNCTION = public.trap_{number}, LEFTARG = {left}, RIGHTARG = {right})"
        )


@pytest_asyncio.fixture
async def log(postgres: Postgres) -> AsyncIterator[tuple[Log, str]]:
    async with postgres.database() as url, opened(url) as log:
        async with connected(url) as connection:
            await set_traps(connection)
        yield log, url


async def test_the_traps_are_such(log: tuple[Log, str]) -> None:
    async with connected(log[1]) as connection:
        for call in (
            "cardinality(ARRAY['a'])",
            "array_fill(1, ARRAY[1])",
            "ARRAY['a'] || 'b'::text",
            "1 * interval '1s'",
        ):
            with pytest.raises(asyncpg.RaiseError, match="trapped"):
                await connection.fetch(f"SELECT {call}")


async def test_every_way_through_the_log_meets_none(log: tuple[Log, str]) -> None:
    """Appends of each kind, reads, forks, removal, packing, runs, leases: what fails here was trapped."""
    it, url = log
    store = Store(it.database, machine="m1")
    await it.create("s", ttl=60, body=b"[1]")
    await it.append("s", b"1")
    await it.append("s", b"1", b"2", producer=Producer("p", 0, 0))
    await it.append("s", *[b"1"] * 100)
    for path in ("runs/1", "runs/2", "b"):
        await it.create(path)
    requests = [AppendRequest(path, JSON, [b"1"], False, None, None) for path in ("s", "b")]
    await asyncio.gather(*(it.writer.append(request) for request in requests))
    mixed = [
        AppendRequest("runs/1", JSON, [b"1"], True, None, Producer("p", 0, 0)),
        AppendRequest("b", JSON, [b"1", b"2"], False, "x", None),
        AppendRequest("runs/2", JSON, [b"1"], False, None, None, 30),
    ]
    await asyncio.gather(*(it.writer.append(request) for request in mixed))
    await it.create("f", fork=Fork("s", 2, 0))
    for path in ("s", "f", "runs/1"):
        await it.content(path)
        await it.reader.live(path, 0, recent=1000)
    await it.reader.positions(["s", "b"])
    await it.reader.touch(["s", "b"])
    await store.open_control("runs/2")
    await store.record("runs/1")
    await store.cancel("runs/2", "because")
    async with connected(url) as app, app.transaction():
        await app.execute("SELECT run_gateway.create('runs/3', lease => 5, ttl => 60, metadata => '{\"a\": \"b\"}')")
        await app.execute("SELECT run_gateway.append('runs/3', '1')")
        await app.execute("SELECT run_gateway.close('runs/3', '{\"type\": \"run_end\"}')")
        await app.execute("SELECT run_gateway.held('{s}', '{t}', '{t}')")
    async with connected(url) as app:
        await app.execute("UPDATE run_gateway.streams SET lease_until = now() - interval '1 day' WHERE path = 'runs/2'")
        await app.execute("UPDATE run_gateway.leases SET check_at = now()")
        await app.execute("INSERT INTO run_gateway.lease_looks VALUES (true, now(), now() - interval '1 day')")
    assert len((await store.end_lost(5, again=True)).ended) == 1
    await it.lifecycle.delete("f")
    house = Housekeeping(it.database, machine="m1", interval=1, retention=1e-6)
    await house.round()
    assert house.packed + house.purged > 0


async def test_each_function_says_where_names_are_looked_for(log: tuple[Log, str]) -> None:
    async with connected(log[1]) as connection:
        exposed = await connection.fetch(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'run_gateway'::regnamespace AND prosqlbody IS NULL"
            " AND NOT coalesce(array_to_string(proconfig, ' ') ~ 'search_path=pg_catalog, pg_temp', false)"
        )
    names = {row["proname"] for row in exposed if not row["proname"].startswith("flue")}
    assert names == {"append", "append_alone", "append_plain", "append_one", "append_batch"}
