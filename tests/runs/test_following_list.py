"""`/v1/stream?live=sse&metadata.user=…`: all runs that a list names, at two Machines over one database."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

from tests.auth.people import as_key
from tests.auth.people import settings as with_auth
from tests.event_source import Reading
from tests.runs.tools import CLOSED, append, make, refusal
from tests.servers import Client, Follow, client_of, serving, until


@pytest.fixture
def user() -> str:
    """Who has runs that no other test sees."""
    return uuid4().hex


@asynccontextmanager
async def follow_all(client: Client, user: str, more: str = "", **headers: str) -> AsyncIterator[Follow]:
    async with client.stream(f"/v1/stream?live=sse&metadata.user={user}{more}", headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        yield Follow(response)


def told(reading: Reading) -> list[dict[str, Any]]:
    return [part for event in reading.events for part in json.loads(event.data)]


def events(reading: Reading, run: str) -> list[Any]:
    return [event for part in told(reading) if part.get("stream") == f"runs/{run}" for event in part.get("events", [])]


def words(reading: Reading, name: str) -> list[str]:
    """The streams of which this was said."""
    return [part["stream"] for part in told(reading) if name in part]


async def test_runs_that_come_to_the_list_join_by_themselves(a: Client, b: Client, id: str, user: str) -> None:
    await make(a, id, metadata={"user": user})
    await append(a, id, 0)
    async with follow_all(b, user) as follow:
        await follow.until(lambda reading: events(reading, id) == [0])
        await make(a, f"{id}-2", metadata={"user": user})
        await make(a, f"{id}-3", metadata={"user": "another"})
        for run in (id, f"{id}-2", f"{id}-3"):
            await append(a, run, 1)
        await append(a, f"{id}-2", 2, **CLOSED)
        reading = await follow.until(lambda reading: bool(words(reading, "streamClosed")))
        await a("DELETE", f"/runs/{id}")
        reading = await follow.until(lambda reading: bool(words(reading, "error")))
    assert (events(reading, id), events(reading, f"{id}-2")) == ([0, 1], [1, 2])
    assert words(reading, "streamClosed") == [f"runs/{id}-2"]
    assert words(reading, "error") == [f"runs/{id}"], "its last word, once"
    assert not events(reading, f"{id}-3")


async def test_one_goes_on_at_another_machine_and_misses_nothing(a: Client, b: Client, id: str, user: str) -> None:
    for n in range(3):
        await make(a, f"{id}-{n}", metadata={"user": user})
        await append(a, f"{id}-{n}", "first")
    await append(a, f"{id}-0", "end", **CLOSED)
    async with follow_all(a, user) as follow:
        first = await follow.until(
            lambda reading: len(words(reading, "upToDate")) >= 2 and bool(words(reading, "streamClosed"))
        )
    await append(a, f"{id}-1", "end", **CLOSED)  # one ends,
    await a("DELETE", f"/runs/{id}-2")  # one goes,
    await make(a, f"{id}-3", metadata={"user": user})  # one begins and ends,
    await append(a, f"{id}-3", "all", **CLOSED)
    await make(b, f"{id}-4", metadata={"user": user})  # and one begins, while nobody reads
    async with follow_all(b, user, **{"last-event-id": first.last_event_id}) as follow:
        again = await follow.until(
            lambda reading: len(words(reading, "streamClosed")) == 2 and bool(words(reading, "upToDate"))
        )
        await append(a, f"{id}-4", "on")
        again = await follow.until(lambda reading: events(reading, f"{id}-4") == ["on"])
    assert [events(again, f"{id}-{n}") for n in range(4)] == [[], ["end"], [], ["all"]]
    assert sorted(words(again, "streamClosed")) == [f"runs/{id}-1", f"runs/{id}-3"]
    assert words(again, "error") == [f"runs/{id}-2"]
    async with follow_all(a, user, **{"last-event-id": again.last_event_id}) as follow:
        third = await follow.until(lambda reading: bool(words(reading, "upToDate")))
    assert words(third, "stream") == [f"runs/{id}-4"], "of which alone there may be more"


async def test_a_list_of_the_active_is_all_that_go_on(a: Client, id: str, user: str) -> None:
    await make(a, id, metadata={"user": user})
    await append(a, id, "over", **CLOSED)
    await make(a, f"{id}-2", metadata={"user": user})
    async with follow_all(a, user, "&status=active&offset=now") as follow:
        await follow.until(lambda reading: words(reading, "upToDate") == [f"runs/{id}-2"])
        await append(a, f"{id}-2", "end", **CLOSED)
        reading = await follow.until(lambda reading: bool(words(reading, "streamClosed")))
    assert set(words(reading, "stream")) == {f"runs/{id}-2"}
    async with follow_all(a, user, "&status=completed&fold=type:text") as follow:
        reading = await follow.until(lambda reading: len(words(reading, "streamClosed")) == 2)
    assert events(reading, id) == ["over"]


async def test_an_empty_list_waits_for_its_first_run(a: Client, b: Client, id: str, user: str) -> None:
    async with follow_all(b, user) as follow:
        reading = await follow.until(lambda reading: bool(reading.last_event_id))
        assert not reading.events
        await make(a, id, metadata={"user": user})
        await append(a, id, 1)
        await follow.until(lambda reading: events(reading, id) == [1])


async def test_where_a_reader_stood_may_be_known_no_more(
    a: Client, monkeypatch: pytest.MonkeyPatch, id: str, user: str
) -> None:
    await make(a, id, metadata={"user": user})
    await append(a, id, 1)
    async with follow_all(a, user) as follow:
        reading = await follow.until(lambda reading: events(reading, id) == [1])
    monkeypatch.setattr("gateway.protocol.changes.KEPT", -3600)
    async with follow_all(a, user, **{"last-event-id": reading.last_event_id}) as follow:
        again = await follow.until(lambda reading: events(reading, id) == [1])
    assert told(again)[0] == {"anew": True}


async def test_runs_that_join_are_counted(database_url: str) -> None:
    with serving(database_url, "direct", max_followed=2, max_readers=1) as running:
        async with client_of(running) as client:
            for run in "ab":
                await make(client, run, metadata={"user": "u"})
            async with follow_all(client, "u") as follow:
                await follow.until(lambda reading: len(words(reading, "upToDate")) == 2)
                assert running.app._limits.readers.followed == 2
                assert refusal(await client("GET", "/v1/stream?live=sse&metadata.user=u")) == (503, "too_many_readers")
                await make(client, "c", metadata={"user": "u"})
                await follow.until(lambda reading: words(reading, "error") == ["runs/c"])
                await append(client, "a", 1, **CLOSED)
                await follow.until(lambda reading: words(reading, "streamClosed") == ["runs/a"])
                await make(client, "d", metadata={"user": "u"})
                await follow.until(lambda reading: words(reading, "upToDate")[-1] == "runs/d")
            await until(lambda: running.app._limits.readers.followed == 0)
            assert not running.app._runs.changes.tenants


async def test_a_list_of_no_runs_counts_for_its_credential(database_url: str) -> None:
    with serving(database_url, "direct", max_streams_per_token=2) as running:
        async with client_of(running) as client, follow_all(client, "nobody"), follow_all(client, "u") as follow:
            assert refusal(await client("GET", "/v1/stream?live=sse&status=active")) == (429, "too_many_streams")
            await make(client, "a", metadata={"user": "u"})
            await follow.until(lambda reading: words(reading, "error") == ["runs/a"])
        await until(lambda: not running.app._limits.streams.held)  # type: ignore[union-attr]


async def test_a_list_is_for_who_may_have_it(database_url: str) -> None:
    with serving(database_url, "direct", sse_max_age=0.2, **with_auth()) as running:
        async with client_of(running) as client:
            made = await client("POST", "/runs", headers=as_key("all"), json={"id": "a", "metadata": {"user": "u"}})
            target = "/v1/stream?live=sse&metadata.user=u"
            assert refusal(await client("GET", target)) == (401, "credential_missing")
            assert refusal(await client("GET", target, headers=as_key("writer"))) == (403, "scope_missing")
            bound = {"authorization": f"Bearer {made.json()['token']}"}
            assert refusal(await client("GET", target, headers=bound)) == (403, "wrong_stream")
            for name, there in (("reader", True), ("all@acme", False)):
                answer = await client("GET", target, headers=as_key(name))
                assert answer.status_code == 200 and (b"runs/a" in answer.content) == there


WRONG = ["status=odd", *(f"status=active&{more}" for more in ("limit=5", "stream=a", "offset=x", "x=1", "fold=x"))]


@pytest.mark.parametrize("query", WRONG)
async def test_what_cannot_be_meant_is_refused(a: Client, query: str) -> None:
    assert refusal(await a("GET", f"/v1/stream?live=sse&{query}")) == (400, "invalid_request")
