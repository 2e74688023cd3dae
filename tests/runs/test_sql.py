"""Appending from SQL: inside the caller's own transaction, beside appends over HTTP, with the same readers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson
import pytest
import pytest_asyncio

from gateway.protocol.content_type import check_content_type
from gateway.protocol.errors import InvalidRequest
from tests.log.rig import connected, until_blocked
from tests.runs.tools import CLOSED, append, at, events, make, meta, refusal
from tests.servers import Client, following, last_control, payloads

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


@pytest_asyncio.fixture
async def app(database_of_all: str) -> AsyncIterator[Connection]:
    """An agent's own connection, with a table of its own."""
    async with connected(database_of_all) as connection:
        await connection.execute("CREATE TEMPORARY TABLE steps (n integer)")
        yield connection


async def test_events_and_the_callers_own_state_commit_together_or_not(
    a: Client, b: Client, id: str, app: Connection
) -> None:
    assert await app.fetchval("SELECT run_gateway.create($1)", f"runs/{id}")
    url = f"/runs/{id}?offset=-1&live=sse"
    async with following(a, url) as here, following(b, url) as there:
        transaction = app.transaction()
        await transaction.start()
        await app.execute("INSERT INTO steps VALUES (1)")
        await app.execute("SELECT run_gateway.append($1, $2::jsonb)", f"runs/{id}", '{"step": 1}')
        await transaction.rollback()
        async with app.transaction():
            await app.execute("INSERT INTO steps VALUES (2)")
            assert await app.fetchval("SELECT run_gateway.append($1, $2)", f"runs/{id}", '{"step": 2}') == at(1)
            assert await events(a, f"/runs/{id}") == [], "nobody is shown what has not been committed"
        for reader in (here, there):
            assert payloads(await reader.until(lambda reading: bool(payloads(reading)))) == [{"step": 2}]
        assert await app.fetchval("SELECT array_agg(n) FROM steps") == [2]
        async with app.transaction():
            end = {"type": "run_end", "isError": False, "result": "done"}
            assert await app.fetchval(
                "SELECT run_gateway.close($1, $2)", f"runs/{id}", orjson.dumps(end).decode()
            ) == at(2)
        for reader in (here, there):
            reading = await reader.end()
            assert payloads(reading) == [{"step": 2}, end]
            assert last_control(reading) == {"streamNextOffset": at(2), "streamClosed": True}
    record = await meta(b, id)
    assert (record["status"], record["result"]) == ("completed", "done")


async def test_order_holds_beside_appends_over_http(a: Client, b: Client, id: str, app: Connection) -> None:
    await make(a, id)
    tails: list[str] = []

    async def from_sql() -> None:
        for n in range(30):
            async with app.transaction():
                tails.append(await app.fetchval("SELECT run_gateway.append($1, $2)", f"runs/{id}", f'{{"sql": {n}}}'))

    async def over_http(client: Client, name: str) -> None:
        for n in range(30):
            tails.append((await append(client, id, {name: n})).headers["stream-next-offset"])

    async with following(b, f"/runs/{id}?offset=-1&live=sse") as reader:
        await asyncio.gather(from_sql(), over_http(a, "a"), over_http(b, "b"))
        seen = payloads(await reader.until(lambda reading: len(payloads(reading)) == 90))
    assert sorted(tails) == [at(n) for n in range(1, 91)]
    assert seen == await events(a, f"/runs/{id}")
    for name in ("sql", "a", "b"):
        assert [event[name] for event in seen if name in event] == list(range(30))


async def test_an_append_over_http_waits_for_the_transaction(
    a: Client, b: Client, id: str, app: Connection, database_of_all: str
) -> None:
    await make(a, id)
    await make(a, f"{id}-2")
    async with connected(database_of_all) as look:
        async with app.transaction():
            await app.execute("SELECT run_gateway.append($1, '\"sql\"')", f"runs/{id}")
            later = asyncio.create_task(append(b, id, "http"))
            await until_blocked(look)
            assert (await append(b, f"{id}-2", "neighbour")).status_code == 204, "another run waits for nobody"
            assert not later.done()
        assert (await later).headers["stream-next-offset"] == at(2)
    assert await events(a, f"/runs/{id}") == ["sql", "http"]


async def test_closed_is_closed(a: Client, id: str, app: Connection) -> None:
    await make(a, id)
    await a("POST", f"/runs/{id}", headers=CLOSED)
    assert await app.fetchval("SELECT run_gateway.close($1)", f"runs/{id}") == at(0), "closing again is no error"
    for statement in ("SELECT run_gateway.append($1, '1')", "SELECT run_gateway.close($1, '1')"):
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
            await app.execute(statement, f"runs/{id}")
    for statement in ("SELECT run_gateway.append($1, '1')", "SELECT run_gateway.close($1)"):
        with pytest.raises(asyncpg.NoDataFoundError):
            await app.execute(statement, f"runs/{id}-not")
    assert await events(a, f"/runs/{id}") == []


async def test_a_run_is_created_with_its_record(a: Client, id: str, app: Connection) -> None:
    create = (
        "SELECT run_gateway.create($1, lease => $2, workflow_name => 'chat', input => '{\"q\": 1}',"
        ' metadata => \'{"user": "u", "attempt": 2, "last": false}\')'
    )
    assert await app.fetchval(create, f"runs/{id}", 60) is True
    assert await app.fetchval(create, f"runs/{id}", 60) is False
    with pytest.raises(asyncpg.DuplicateObjectError):
        await app.execute(create, f"runs/{id}", 61)
    record = await meta(a, id)
    assert (record["workflowName"], record["input"], record["metadata"], record["lease"]) == (
        "chat", {"q": 1}, {"user": "u", "attempt": 2, "last": False}, 60,
    )  # fmt: skip
    assert await app.fetchval("SELECT run_gateway.create($1, 'text/plain')", f"plain/{id}") is True
    with pytest.raises(asyncpg.DuplicateObjectError):
        await app.execute("SELECT run_gateway.create($1)", f"plain/{id}")
    assert refusal(await a("GET", f"/v1/stream/plain/{id}/x")) == (404, "stream_not_found")


@pytest.mark.parametrize(
    "arguments",
    [
        "'runs/x/cancel'",
        "'runs/x/control'",
        "E'a\\nb'",
        "''",
        "NULL",
        "'runs/x', 'nonsense'",
        "'runs/x', lease => 0",
        "'runs/x', ttl => -1",
        "'runs/x', metadata => '[]'",
        "'runs/x', metadata => '{\"a\": null}'",
        "'runs/x', metadata => '{\"a\": [\"b\"]}'",
        "'plain', lease => 5",
        "'runs/..'",
        "'a/%2E/b'",
        "'x', 'ä/b'",
        "'x', 'a/b' || repeat('c', 253)",
    ],
)
async def test_what_no_request_could_ask_is_refused(app: Connection, arguments: str) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await app.execute(f"SELECT run_gateway.create({arguments})")


TYPES = [
    "a/b", "A-1/b.c+d", "a/b;c=d", "a/b ; c=d; ;", 'a/b;c="d e\\" f"', "a/b\t;\tc=d", "a/" + "b" * 253,
    "!#$%&'*+.^_`|~/x",
    "", "a", "a/", "/b", "a/b c", "a/b;c", "a/b;c=", 'a/b;c="', "a/b\n", "ä/b", "a/b;c=ä", "a/" + "b" * 254,
    "a/b;c=\x7f", " a/b", "a/b ", "a/b\t", "a/b; ", "a/b;c=d\t",
]  # fmt: skip


async def test_sql_and_http_have_one_rule_for_content_types(app: Connection) -> None:
    told = await app.fetch("SELECT t, run_gateway.is_content_type(t) AS valid FROM unnest($1::text[]) AS t", TYPES)
    for type, valid in told:
        try:
            check_content_type(type)
        except InvalidRequest:
            assert not valid, type
        else:
            assert valid, type


WRITTEN = r'{"b":1.50, "a":"\ud83d\u0000", "b":{"\udc00":1}}'


async def test_json_from_sql_is_kept_as_it_is_written(a: Client, b: Client, id: str, app: Connection) -> None:
    path, url = f"runs/{id}", f"/runs/{id}?offset=-1&live=sse"
    await app.execute("SELECT run_gateway.create($1)", path)
    async with following(a, url) as here, following(b, url) as there:
        assert await app.fetchval("SELECT run_gateway.append_json($1, $2)", path, WRITTEN) == at(1)
        end = '{"type": "run_end",\r\n"result": ' + WRITTEN + "}"
        assert await app.fetchval("SELECT run_gateway.close_json($1, $2)", path, end) == at(2)
        for reader in (here, there):
            await reader.end()
            assert WRITTEN.encode() in reader.bytes
    kept = end.replace("\r\n", "  ")
    assert (await b("GET", f"/{path}")).content.decode() == f"[{WRITTEN},{kept}]"
    assert f'"result":{WRITTEN}' in (await a("GET", f"/{path}?meta")).text
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
        await app.execute("SELECT run_gateway.append_json($1, $2)", path, WRITTEN)


@pytest.mark.parametrize("level", ["repeatable_read", "serializable"])
@pytest.mark.parametrize(
    "call",
    ["append('none', '1')", "close('none')", "create('new')", "append_json('none', '1')", "close_json('none', '1')"],
)
async def test_a_transaction_that_is_stricter_is_refused(app: Connection, level: Any, call: str) -> None:
    with pytest.raises(asyncpg.FeatureNotSupportedError, match="READ COMMITTED"):
        async with app.transaction(isolation=level):
            await app.execute(f"SELECT run_gateway.{call}")


async def test_no_event_is_no_append(app: Connection, id: str) -> None:
    await app.execute("SELECT run_gateway.create($1)", f"runs/{id}")
    with pytest.raises(asyncpg.NullValueNotAllowedError):
        await app.execute("SELECT run_gateway.append($1, NULL)", f"runs/{id}")
    with pytest.raises(asyncpg.NullValueNotAllowedError):
        await app.execute("SELECT run_gateway.append_json($1, NULL)", f"runs/{id}")


@pytest.mark.parametrize(
    ("path", "ttl"),
    [("x" * 1025, None), ("é" * 1020 + "ab" * 5, None), ("runs/" + "x" * 257, None), ("s", 2**62)],
)
async def test_what_is_too_long_is_a_value_that_cannot_be(app: Connection, path: str, ttl: int | None) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await app.execute("SELECT run_gateway.create($1, ttl => $2)", path, ttl)


async def test_the_longest_path_can_be_made(app: Connection) -> None:
    for path in ("x" * 1024, "runs/" + "x" * 256, "tenant\x1f" + "y" * 1024):
        assert await app.fetchval("SELECT run_gateway.create($1)", path)
