"""`GET /runs?live=sse`: the list, and then each change of it, at two Machines over one database."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.log.database import Database
from gateway.protocol.changes import KEPT, Standing
from gateway.protocol.record import RunRecord
from gateway.runs.live_list import Look
from gateway.runs.queries import parse_list, shows
from gateway.runs.store import Store
from tests.event_source import Reading, read
from tests.runs.tools import CLOSED, append, make, refusal
from tests.servers import Client, Follow, Running, client_of, serving, until


@pytest.fixture
def user() -> str:
    """Who has runs that no other test sees."""
    return uuid4().hex


@asynccontextmanager
async def live(client: Client, user: str, more: str = "", **headers: str) -> AsyncIterator[Follow]:
    async with client.stream(f"/runs?live=sse&metadata.user={user}{more}", headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        yield Follow(response)


def listed(reading: Reading) -> list[list[str]]:
    """The ids of each list that was told."""
    data = [json.loads(event.data) for event in reading.events]
    return [[run["runId"] for run in each["list"]] for each in data if "list" in each]


def told(reading: Reading) -> list[tuple[str, str]]:
    """The changes that were told, each with its run's id."""
    data = [json.loads(event.data) for event in reading.events]
    return [(each["change"], each["run"]["runId"]) for some in data for each in some.get("changes", [])]


async def test_the_list_comes_first_and_then_each_change(a: Client, b: Client, id: str, user: str) -> None:
    await make(a, id, metadata={"user": user}, workflowName="chat")
    async with live(b, user) as follow:
        await follow.until(lambda reading: listed(reading) == [[id]])
        await make(a, f"{id}-2", metadata={"user": user})
        await make(a, f"{id}-3", metadata={"user": "another"})
        await follow.until(lambda reading: len(told(reading)) == 1)
        await a("POST", f"/runs/{id}/cancel")
        await follow.until(lambda reading: len(told(reading)) == 2)
        await append(a, id, {"type": "run_end", "isError": True}, **CLOSED)
        await follow.until(lambda reading: len(told(reading)) == 3)
        await a("DELETE", f"/runs/{id}")
        reading = await follow.until(lambda reading: len(told(reading)) == 4)
    assert told(reading) == [("created", f"{id}-2"), ("cancelled", id), ("ended", id), ("removed", id)]
    *_, ended, removed = (json.loads(event.data)["changes"][0]["run"] for event in reading.events[1:])
    assert (ended["status"], ended["workflowName"], ended["metadata"]) == ("errored", "chat", {"user": user})
    assert removed == ended, "as it was"


async def test_what_came_while_one_was_away_is_told(a: Client, b: Client, id: str, user: str) -> None:
    async with live(a, user) as follow:
        reading = await follow.until(lambda reading: listed(reading) == [[]])
    await make(a, id, metadata={"user": user})
    await append(a, id, {"type": "run_end"}, **CLOSED)
    await make(b, f"{id}-2", metadata={"user": user})
    await b("DELETE", f"/runs/{id}-2")
    async with live(b, user, **{"last-event-id": reading.last_event_id}) as follow:
        again = await follow.until(lambda reading: len(told(reading)) == 3)
        await make(a, f"{id}-3", metadata={"user": user})
        again = await follow.until(lambda reading: len(told(reading)) == 4)
    assert not listed(again)
    assert told(again) == [("created", id), ("ended", id), ("removed", f"{id}-2"), ("created", f"{id}-3")]


async def test_one_that_comes_back_to_nothing_new_is_given_a_fresh_id(a: Client, b: Client, user: str) -> None:
    async with live(a, user) as follow:
        reading = await follow.until(lambda reading: bool(listed(reading)))
    await make(a, uuid4().hex)  # of somebody else
    async with live(b, user, **{"last-event-id": reading.last_event_id}) as follow:
        again = await follow.until(lambda reading: bool(reading.last_event_id))
    assert not again.events and again.last_event_id != reading.last_event_id


async def test_a_transaction_that_commits_later_is_not_jumped_over(
    a: Client, database_of_all: str, id: str, user: str
) -> None:
    metadata = json.dumps({"user": user})
    one, other = await asyncpg.connect(database_of_all), await asyncpg.connect(database_of_all)
    try:
        create = "SELECT run_gateway.create($1, metadata => $2::text::jsonb)"
        first = one.transaction()
        await first.start()
        await one.execute(create, f"runs/{id}-slow", metadata)  # has the lower number, and commits last
        await other.execute(create, f"runs/{id}-quick", metadata)
        async with live(a, user) as follow:
            begun = await follow.until(lambda reading: listed(reading) == [[f"{id}-quick"]])
            await other.execute(create, f"runs/{id}-third", metadata)
            seen = await follow.until(lambda reading: told(reading) == [("created", f"{id}-third")])
            await first.commit()
            await follow.until(lambda reading: told(reading)[1:] == [("created", f"{id}-slow")])
        for reading, missing in ((begun, [f"{id}-slow", f"{id}-third"]), (seen, [f"{id}-slow"])):
            async with live(a, user, **{"last-event-id": reading.last_event_id}) as follow:
                again = await follow.until(lambda reading: len(told(reading)) >= len(missing))  # noqa: B023
                assert sorted(told(again)) == [("created", run) for run in missing]
    finally:
        await one.close()
        await other.close()


async def test_long_lists_of_changes_come_in_pieces(database_url: str) -> None:
    with serving(database_url, "direct") as running:
        async with client_of(running) as client:
            async with live(client, "u") as follow:
                reading = await follow.until(lambda reading: bool(listed(reading)))
            connection = await asyncpg.connect(database_url)
            create = (
                "SELECT run_gateway.create('runs/' || n, metadata => $1::text::jsonb) FROM generate_series(1, 1200) n"
            )
            await connection.execute(create, '{"user":"u"}')
            await connection.close()
            heard: list[tuple[str, str]] = []
            last = reading.last_event_id
            for _ in range(20):  # cut off after each frame
                async with live(client, "u", **{"last-event-id": last}) as follow:
                    again = await follow.until(lambda reading: bool(reading.last_event_id))
                first = again.events[:1]
                if not first:
                    break
                heard += told(Reading(first))
                last = first[0].last_event_id
    assert len(heard) == len(set(heard)) == 1200


async def test_a_list_of_the_active_is_told_who_ends(a: Client, b: Client, id: str, user: str) -> None:
    async with live(b, user, "&status=active") as active, live(b, user, "&status=completed") as completed:
        for follow in (active, completed):
            await follow.until(lambda reading: bool(listed(reading)))
        await make(a, id, metadata={"user": user})
        await append(a, id, {"type": "run_end"}, **CLOSED)
        await a("DELETE", f"/runs/{id}")
        reading = await completed.until(lambda reading: told(reading)[-1:] == [("removed", id)])
        assert ("created", id) not in told(reading)
        await active.until(lambda reading: told(reading)[-1:] == [("removed", id)])


async def test_who_was_away_for_too_long_begins_anew(
    a: Client, machines: tuple[Running, Running], monkeypatch: pytest.MonkeyPatch, id: str, user: str
) -> None:
    async with live(a, user) as follow:
        reading = await follow.until(lambda reading: bool(listed(reading)))
    await make(a, id, metadata={"user": user})
    monkeypatch.setattr("gateway.protocol.changes.KEPT", -KEPT)
    async with live(a, user, **{"last-event-id": reading.last_event_id}) as follow:
        again = await follow.until(lambda reading: bool(reading.events))
    assert listed(again) == [[id]] and not told(again)


async def test_another_epoch_of_the_log_begins_the_list_anew(database_url: str) -> None:
    with serving(database_url, "direct") as running:
        async with client_of(running) as client:
            await make(client, "one", metadata={"user": "u"})
            async with live(client, "u") as follow:
                await follow.until(lambda reading: len(listed(reading)) == 1)
                connection = await asyncpg.connect(database_url)
                await connection.execute("SELECT run_gateway.new_epoch()")
                await connection.close()
                await make(client, "two", metadata={"user": "u"})
                await follow.until(lambda reading: listed(reading) == [["one"], ["two", "one"]])


async def test_readers_of_one_tenant_share_their_looks(
    a: Client, machines: tuple[Running, Running], monkeypatch: pytest.MonkeyPatch, id: str
) -> None:
    user = uuid4().hex
    async with live(a, user) as one, live(a, user) as two, live(a, user, "&status=active") as three:
        for follow in (one, two, three):
            await follow.until(lambda reading: bool(listed(reading)))
        changes = machines[0].app._runs.changes
        found: list[Look] = []
        ask = changes.tenants[""]._ask

        async def noting(tenant: str, told: Standing, most: int) -> Look:
            look = await ask(tenant, told, most)
            found.append(look)
            return look

        monkeypatch.setattr(changes.tenants[""], "_ask", noting)
        monkeypatch.setattr(changes, "ask", noting)
        await make(a, id, metadata={"user": user})
        for follow in (one, two, three):
            await follow.until(lambda reading: told(reading) == [("created", id)])
    assert len([look for look in found if any(row.record.run_id == id for row in look.rows)]) == 1


async def test_it_is_counted_and_ends_as_any_live_read(database_url: str) -> None:
    with serving(database_url, "direct", max_readers=1, heartbeat=0.2, sse_max_age=1) as running:
        async with client_of(running) as client:
            async with client.stream("/runs?live=sse") as response:
                follow = Follow(response)
                await follow.until(lambda reading: bool(listed(reading)))
                assert refusal(await client("GET", "/runs?live=sse")) == (503, "too_many_readers")
                reading = await follow.end()
                assert reading.comments, "a heartbeat"
            await until(lambda: running.app._limits.readers.many.count == 0)
            assert not running.app._runs.changes.tenants
            running.app.begin_drain()
            assert refusal(await client("GET", "/runs?live=sse")) == (503, "draining")


@pytest.mark.parametrize("query", ["live=long-poll", "live=sse&cursor=Mw", "live=sse&colour=red", "live=sse&limit=501"])
async def test_what_cannot_be_meant_is_refused(a: Client, query: str) -> None:
    assert refusal(await a("GET", f"/runs?{query}")) == (400, "invalid_request")


async def test_an_id_of_another_list_is_refused(a: Client, user: str) -> None:
    async with live(a, user) as follow:
        reading = await follow.until(lambda reading: bool(listed(reading)))
    answer = await a("GET", "/runs?live=sse", headers={"last-event-id": reading.last_event_id})
    assert refusal(answer) == (400, "invalid_request")


SCALARS = st.one_of(st.sampled_from(["u1", "1", "true", "1.0", ""]), st.booleans(), st.sampled_from([0, 1, 1.0, 2.5]))
NAMES = st.sampled_from(["user", "n", "a.b"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    metadata=st.dictionaries(NAMES, SCALARS, max_size=3),
    asked=st.dictionaries(NAMES, st.sampled_from(["u1", "1", "true", "1.0", "2.5", "0", ""]), max_size=2),
)
async def test_a_change_is_shown_where_a_list_has_the_run(
    database: Database, metadata: dict[str, Any], asked: dict[str, str]
) -> None:
    id, tenant = uuid4().hex, uuid4().hex
    async with database.acquire() as connection:
        await connection.execute(
            "SELECT run_gateway.create($1, metadata => $2::text::jsonb)",
            f"{tenant}\x1fruns/{id}",
            json.dumps(metadata),
        )
    request = parse_list(urlencode({f"metadata.{name}": value for name, value in asked.items()}))
    page, _ = await Store(database, machine="m").page(request, tenant)
    record = RunRecord(id, "active", "", metadata=json.dumps(metadata).encode())
    assert shows(request, "created", record) == bool(page)


async def test_removed_runs_are_forgotten_after_an_hour(a: Client, database: Database, id: str) -> None:
    await make(a, id)
    await a("DELETE", f"/runs/{id}")
    count = "SELECT count(*) FROM run_gateway.removed_runs WHERE id = $1"
    async with database.acquire() as connection:
        await connection.execute("SELECT run_gateway.purge(1000)")
        assert await connection.fetchval(count, id) == 1
        await connection.execute(
            "UPDATE run_gateway.removed_runs SET removed_at = now() - interval '61 minutes' WHERE id = $1", id
        )
        await connection.execute("SELECT run_gateway.purge(1000)")
        assert await connection.fetchval(count, id) == 0


async def test_an_eventsource_is_told_to_come_back(database_url: str) -> None:
    with serving(database_url, "direct", max_readers=1) as running:
        async with client_of(running) as client, client.stream("/runs?live=sse") as response:
            first = Follow(response)  # held: one that is collected closes its response, which makes room for the other
            await first.until(lambda reading: bool(listed(reading)))
            answer = await client("GET", "/runs?live=sse", headers={"accept": "text/event-stream"})
            assert answer.status_code == 200 and read(answer.content).retry
