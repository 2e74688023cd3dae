"""`/v1/stream`: many streams over one connection, over real sockets and on two Machines."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from gateway.http.following import JUDGED, Following
from tests.event_source import Reading, read
from tests.http.answers import JSON, at, refusal
from tests.servers import PATIENCE, Client, Follow, Running, client_of, serving, until


def told(reading: Reading) -> list[dict[str, Any]]:
    """What was told of the streams, one after the other."""
    return [part for event in reading.events for part in json.loads(event.data)]


def events(reading: Reading, stream: str) -> list[Any]:
    return [event for part in told(reading) if part["stream"] == stream for event in part.get("events", [])]


def words(reading: Reading, name: str) -> list[str]:
    """The streams of which this was said."""
    return [part["stream"] for part in told(reading) if name in part]


@contextlib.asynccontextmanager
async def many(client: Client, *streams: str, query: str = "", **headers: str) -> AsyncIterator[Follow]:
    target = "/v1/stream?live=sse&" + "&".join(f"stream={stream}" for stream in streams) + query
    async with client.stream(target, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        yield Follow(response)


@pytest.fixture
async def streams(client: Client) -> list[str]:
    names = [uuid4().hex for _ in range(3)]
    for name in names:
        await client("PUT", f"/v1/stream/{name}", headers=JSON, content="[0]")
    return names


async def test_each_stream_is_caught_up_with_and_then_followed(client: Client, streams: list[str]) -> None:
    async with many(client, *streams) as follow:
        await follow.until(lambda reading: len(words(reading, "upToDate")) >= 3)
        for n in range(1, 4):
            for name in streams:
                await client("POST", f"/v1/stream/{name}", headers=JSON, json=[n])
        reading = await follow.until(lambda reading: all(3 in events(reading, name) for name in streams))
        assert all(events(reading, name) == [0, 1, 2, 3] for name in streams)
        offsets = [part["streamNextOffset"] for part in told(reading) if part["stream"] == streams[0]]
        assert offsets == sorted(offsets) and offsets[-1] == at(4)


async def test_an_end_is_told_once_and_the_last_ends_the_response(client: Client, streams: list[str]) -> None:
    async with many(client, *streams) as follow:
        for name in streams:
            await client("POST", f"/v1/stream/{name}", headers=JSON | {"Stream-Closed": "true"}, content="1")
        reading = await follow.end()
    assert sorted(words(reading, "streamClosed")) == sorted(streams)
    assert all(events(reading, name) == [0, 1] for name in streams)
    names = "&".join(f"stream={name}" for name in streams)
    again = await client("GET", f"/v1/stream?live=sse&{names}", headers={"Last-Event-ID": reading.last_event_id})
    assert (again.status_code, again.content) == (204, b""), "which ends an EventSource"


async def test_a_stream_that_is_not_there_says_so_and_others_go_on(client: Client, streams: list[str]) -> None:
    async with many(client, "nowhere", streams[0], "runs%2Fx%2Fcancel") as follow:
        reading = await follow.until(
            lambda reading: len(words(reading, "error")) == 2 and bool(events(reading, streams[0]))
        )
        said = {part["stream"]: part["error"] for part in told(reading) if "error" in part}
        assert (said["nowhere"]["status"], said["nowhere"]["type"]) == (404, "stream_not_found")
        assert (said["runs/x/cancel"]["status"], said["runs/x/cancel"]["type"]) == (400, "invalid_request")
        await client("POST", f"/v1/stream/{streams[0]}", headers=JSON, json=[1])
        await follow.until(lambda reading: events(reading, streams[0]) == [0, 1])


async def test_a_stream_that_is_deleted_has_its_last_word(client: Client, streams: list[str]) -> None:
    async with many(client, *streams) as follow:
        await follow.until(lambda reading: len(words(reading, "upToDate")) == 3)
        await client("DELETE", f"/v1/stream/{streams[0]}")
        reading = await follow.until(lambda reading: bool(words(reading, "error")))
        assert words(reading, "error") == [streams[0]]
        await client("POST", f"/v1/stream/{streams[1]}", headers=JSON, json=[1])
        await follow.until(lambda reading: events(reading, streams[1]) == [0, 1])


async def test_another_stream_at_its_path_is_not_taken_for_it(client: Client, streams: list[str]) -> None:
    async with many(client, *streams) as follow:
        await follow.until(lambda reading: len(words(reading, "upToDate")) == 3)
        await client("DELETE", f"/v1/stream/{streams[0]}")
        await client("PUT", f"/v1/stream/{streams[0]}", headers=JSON, content="[7,8,9]")
        reading = await follow.until(lambda reading: bool(words(reading, "error")))
        assert events(reading, streams[0]) == [0]


async def test_a_reader_goes_on_at_another_machine(gateways: dict[str, Running], streams: list[str]) -> None:
    async with client_of(gateways["direct"]) as one, client_of(gateways["asgi"]) as other:
        async with many(one, *streams) as follow:
            await one("POST", f"/v1/stream/{streams[1]}", headers=JSON, json=[1])
            first = await follow.until(lambda reading: 1 in events(reading, streams[1]))
        for name in streams:
            await one("POST", f"/v1/stream/{name}", headers=JSON, json=[2])
        for resume in ({"Last-Event-ID": first.last_event_id}, {}):
            query = "" if resume else f"&offset={first.last_event_id}"
            async with many(other, *streams, query=query, **resume) as follow:
                rest = await follow.until(lambda reading: all(2 in events(reading, name) for name in streams))
            for name in streams:
                assert events(first, name) + events(rest, name) == ([0, 1, 2] if name == streams[1] else [0, 2])


async def test_now_begins_at_the_tail_of_each(client: Client, streams: list[str]) -> None:
    async with many(client, *streams, query="&offset=now") as follow:
        await follow.until(lambda reading: len(words(reading, "upToDate")) == 3)
        await client("POST", f"/v1/stream/{streams[2]}", headers=JSON, json=[1])
        reading = await follow.until(lambda reading: bool(events(reading, streams[2])))
    assert [events(reading, name) for name in streams] == [[], [], [1]]


async def test_a_long_list_is_named_in_a_body(client: Client, gateway: Running) -> None:
    names = [f"{uuid4().hex}/{n}" for n in range(1000)]
    for name in names[::100]:
        await client("PUT", f"/v1/stream/{name}", headers=JSON, content="[1,2]")
    body = {"streams": [*names[:-1], {"stream": names[-1], "offset": at(1)}]}
    await client("PUT", f"/v1/stream/{names[-1]}", headers=JSON, content="[1,2]")
    before = gateway.app._log.reader.reads
    async with (
        httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE) as http,
        http.stream("POST", "/v1/stream?live=sse", json=body) as response,
    ):
        follow = Follow(response)
        reading = await follow.until(lambda reading: len({part["stream"] for part in told(reading)}) == 1000)
        await until(lambda: gateway.app._limits.readers.followed == 1000)
    assert len(words(reading, "error")) == 989
    assert all(events(reading, name) == [1, 2] for name in names[::100])
    assert events(reading, names[-1]) == [2]
    assert gateway.app._log.reader.reads - before == 11, "what is not there is not read for by itself"
    await until(lambda: gateway.app._limits.readers.followed == 0)


async def test_tokens_of_many_streams_are_judged_in_turns(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, turns, due = Following._judge, [0], False

    def end_of_turn() -> None:
        nonlocal due
        due = False
        turns.append(0)

    async def counting(*asked: Any) -> Any:
        nonlocal due
        if not due:
            due = True
            asyncio.get_running_loop().call_soon(end_of_turn)
        turns[-1] += 1
        return await judge(*asked)

    monkeypatch.setattr(Following, "_judge", counting)
    wanted = [{"stream": f"none/{n}", "token": f"rgt_{n}"} for n in range(200)]
    answer = await client("POST", "/v1/stream?live=sse", headers=JSON, json={"streams": wanted})
    assert answer.status_code == 200
    assert sum(turns) == 200
    assert max(turns) <= JUDGED


async def test_one_that_is_behind_says_how_far(client: Client, streams: list[str]) -> None:
    for name in streams:
        for _ in range(6):
            await client("POST", f"/v1/stream/{name}", headers=JSON, json=["x" * 500] * 60)
    async with many(client, *streams) as follow:
        reading = await follow.until(lambda reading: len(words(reading, "upToDate")) == 3)
    assert {len(events(reading, name)) for name in streams} == {361}
    behind = [part["behind"] for part in told(reading) if part["stream"] == streams[0] and "behind" in part]
    assert behind == sorted(behind, reverse=True) and behind[-1] > 0


async def test_all_streams_count_and_none_too_many(database_url: str) -> None:
    with serving(database_url, "direct", max_followed=3, max_readers=2, max_streams_per_token=2) as running:
        async with client_of(running) as client:
            for name in "abcde":
                await client("PUT", f"/v1/stream/{name}", headers=JSON)
            ask = "/v1/stream?live=sse&" + "&".join(f"stream={name}" for name in "abcd")
            assert refusal(await client("GET", ask)) == (503, "too_many_followed")
            assert refusal(await client("GET", ask[: -len("&stream=d")])) == (429, "too_many_streams")
            async with many(client, "a", "b") as follow:
                await follow.until(lambda reading: len(told(reading)) == 2)
                assert refusal(await client("GET", "/v1/stream?live=sse&stream=c")) == (429, "too_many_streams")
            eventual = await client("GET", ask, headers={"accept": "text/event-stream"})
            assert eventual.status_code == 200 and read(eventual.content).retry, "so that an EventSource comes back"


async def test_a_drain_ends_it_cleanly_and_refuses_more(database_url: str) -> None:
    with serving(database_url, "direct") as running:
        async with client_of(running) as client:
            await client("PUT", "/v1/stream/a", headers=JSON)
            async with many(client, "a") as follow:
                await follow.until(lambda reading: bool(told(reading)))
                running.app.begin_drain()
                await follow.end()
            assert refusal(await client("GET", "/v1/stream?live=sse&stream=a")) == (503, "draining")


async def test_an_age_and_heartbeats_are_as_for_one_stream(database_url: str) -> None:
    with serving(database_url, "direct", sse_max_age=1.0, heartbeat=0.25) as running:
        async with client_of(running) as client:
            await client("PUT", "/v1/stream/a", headers=JSON)
            async with many(client, "a") as follow:
                reading = await follow.end()
    assert reading.comments and told(reading)
