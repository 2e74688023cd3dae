"""Runs of Flue's, followed here while a Flue server writes them: everything once, in order, with the end."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.databases import Postgres
from tests.event_source import read
from tests.flue.app import App, event, recording
from tests.servers import Running, body_of, serving, until


def offset(last: int) -> str:
    """The offset of the last event read, as Flue writes it."""
    return f"{0:016d}_{last:016d}"


@pytest.fixture
async def http(gateway: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as http:
        yield http


async def follow(gateway: Running, run: str, since: str = "-1") -> list[Any]:
    """Every event of an SSE response, until the stream's end, which has to be told."""
    answer = read(body_of(await gateway.get_raw(f"/runs/{run}?offset={since}&live=sse")))
    assert json.loads(answer.events[-1].data)["streamClosed"]
    return [message for event in answer.events if event.type == "data" for message in json.loads(event.data)]


async def test_an_event_stream_has_it_all_while_it_is_written(gateway: Running, app: App, run: str) -> None:
    record, events = recording("chat")
    record, events = record | {"runId": run}, [event | {"runId": run} for event in events]
    await app.admit(record)
    await app.create_stream(run)
    following = asyncio.create_task(follow(gateway, run))
    for each in events:
        await app.append(run, each)
        await asyncio.sleep(0)
    await app.close(run)
    await app.end(record)
    assert await following == events


async def test_onmessage_of_an_event_source_hears_each_event(gateway: Running, app: App, run: str) -> None:
    """It knows the address alone, and comes before the run."""
    asking = "accept: text/event-stream"
    following = asyncio.create_task(gateway.get_raw(f"/runs/{run}?named=false&wait=30", asking))
    await until(lambda: f"runs/{run}" in gateway.app._hub.tails)  # it waits
    await app.begin(run)
    for i in range(3):
        await app.append(run, event(run, i))
    await app.close(run)
    *events, control = read(body_of(await following)).events
    assert [(each.type, json.loads(each.data)["eventIndex"]) for each in events] == [("message", i) for i in range(3)]
    assert json.loads(control.data)["streamClosed"]
    assert [each.last_event_id for each in events] == [offset(i) for i in range(3)]
    again = f"last-event-id: {events[0].last_event_id}"
    *rest, _ = read(body_of(await gateway.get_raw(f"/runs/{run}?named=false", asking, again))).events
    assert rest == events[1:]


async def test_an_event_source_of_no_run_is_told_so(gateway: Running, app: App, run: str) -> None:
    answer = await gateway.get_raw(f"/runs/{run}?wait=0", "accept: text/event-stream")
    assert answer.startswith(b"HTTP/1.1 404")


async def test_long_polls_in_a_row_get_everything_and_no_false_end(http: httpx.AsyncClient, app: App, run: str) -> None:
    await app.begin(run)

    async def write() -> None:
        for i in range(12):
            await app.append(run, event(run, i))
            await asyncio.sleep(0.02)
        await app.close(run)

    writing = asyncio.create_task(write())
    seen: list[int] = []
    at, closed = "-1", False
    while not closed:
        answer = await http.get(f"/runs/{run}?offset={at}&live=long-poll")
        seen += [each["eventIndex"] for each in answer.json()] if answer.status_code == 200 else []
        at, closed = answer.headers["stream-next-offset"], "stream-closed" in answer.headers
    await writing
    assert (seen, at) == (list(range(12)), offset(11))


async def test_pages_are_of_a_hundred_and_go_on_from_any_offset(http: httpx.AsyncClient, app: App, run: str) -> None:
    await app.begin(run)
    await app.connection.executemany(
        "INSERT INTO flue_event_stream_entries (path, seq, data) VALUES ($1, $2, $3)",
        [(f"runs/{run}", i, json.dumps(event(run, i))) for i in range(250)],
    )
    await app.connection.execute("UPDATE flue_event_streams SET next_offset = 250 WHERE path = $1", f"runs/{run}")
    first = await http.get(f"/runs/{run}")
    assert [each["eventIndex"] for each in first.json()] == list(range(100))
    assert first.headers["stream-next-offset"] == offset(99)
    assert "stream-up-to-date" not in first.headers
    again = await http.get(f"/runs/{run}", headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304
    middle = await http.get(f"/runs/{run}?offset={offset(99)}")
    last = await http.get(f"/runs/{run}?offset={offset(199)}")
    assert [each["eventIndex"] for each in middle.json() + last.json()] == list(range(100, 250))
    assert last.headers["stream-up-to-date"] == "true"
    tail = await http.get(f"/runs/{run}?offset=-1&tail=3")
    assert [each["eventIndex"] for each in tail.json()] == [247, 248, 249]


async def test_an_empty_stream_is_at_the_start(http: httpx.AsyncClient, app: App, run: str) -> None:
    await app.begin(run)
    for query in ("", "?offset=-1", "?offset=now", "?tail=5"):
        answer = await http.get(f"/runs/{run}{query}")
        assert (answer.json(), answer.headers["stream-next-offset"]) == ([], "-1")
    poll = await http.get(f"/runs/{run}?offset=-1&live=long-poll")
    assert (poll.status_code, poll.headers["stream-next-offset"]) == (204, "-1")
    assert "stream-closed" not in poll.headers
    assert (await http.head(f"/runs/{run}")).headers["stream-next-offset"] == "-1"


async def test_a_run_without_a_stream_has_a_record_and_no_events(http: httpx.AsyncClient, app: App, run: str) -> None:
    await app.admit({"runId": run, "workflowName": "chat", "startedAt": "2026-11-23T01:49:29.448Z"})
    assert (await http.get(f"/runs/{run}")).json()["error"]["type"] == "run_not_found"
    assert (await http.get(f"/runs/{run}?meta")).json() == {
        "runId": run, "workflowName": "chat", "status": "active", "startedAt": "2026-11-23T01:49:29.448Z",
    }  # fmt: skip


async def test_runs_of_workflows_that_are_not_named_are_not_there(
    gateway: Running, http: httpx.AsyncClient, app: App, run: str
) -> None:
    await app.begin(run, "secret")
    await app.append(run, event(run, 0))
    unknown = (await http.get("/runs/unknown")).text
    for target in ("", "?meta", "?offset=-1&live=sse", "?offset=-1&live=long-poll", "?offset=bad", "?tail=1"):
        answer = await http.get(f"/runs/{run}{target}")
        assert (answer.status_code, answer.text) == (404, unknown.replace("unknown", run))
    assert (await http.head(f"/runs/{run}")).status_code == 404
    assert (await http.post(f"/runs/{run}", json={})).status_code == 404
    assert (await http.delete(f"/runs/{run}")).status_code == 404


async def test_an_id_of_flues_is_not_given_to_another_run(http: httpx.AsyncClient, app: App, run: str) -> None:
    await app.begin(run, "ticker")
    json = {"content-type": "application/json"}
    for path in (f"/runs/{run}", f"/v1/stream/runs/{run}"):
        assert (await http.put(path, headers=json)).status_code == 409
    assert (await http.post("/runs", json={"id": run})).json()["error"]["type"] == "run_exists"
    assert (await http.post(f"/runs/{run}", json={})).status_code == 405


@pytest.mark.parametrize("by", ["PUT", "POST"])
async def test_a_hidden_runs_id_is_told_by_no_refusal(http: httpx.AsyncClient, app: App, run: str, by: str) -> None:
    """Whoever asks for it is answered as for an id that nobody has, and what they make stands beside it."""
    await app.begin(run, "secret")
    await app.append(run, event(run, 0))
    unknown = f"{run}-unknown"

    async def answers(id: str) -> list[tuple[int, str]]:
        if by == "PUT":
            made = await http.put(f"/runs/{id}", headers={"content-type": "application/json"})
        else:
            made = await http.post("/runs", json={"id": id})
        asked = [
            made,
            await http.post(f"/runs/{id}", json={"own": 1}),
            await http.get(f"/runs/{id}"),
            await http.get(f"/runs/{id}?offset=-1"),
            await http.head(f"/runs/{id}"),
            await http.put(f"/runs/{id}", headers={"content-type": "text/plain"}),
        ]
        return [(answer.status_code, answer.text.replace(id, "ID")) for answer in asked]

    assert await answers(run) == await answers(unknown)
    assert (await http.get(f"/runs/{run}")).json() == [{"own": 1}]


async def test_the_list_is_flues_and_the_gateways_own_is_asked_for(postgres: Postgres, run: str) -> None:
    async with postgres.database() as url, App.start(url, tables=True) as app:
        for i, workflow in enumerate(("ticker", "secret", "chat", "ticker", "ticker")):
            record: dict[str, Any] = {
                "runId": f"run_{i}", "workflowName": workflow, "startedAt": f"2026-11-23T01:49:2{i}.000Z", "input": {},
            }  # fmt: skip
            await app.admit(record)
        await app.end(
            record
            | {"status": "completed", "endedAt": record["startedAt"], "isError": False, "durationMs": 1, "result": 1}
        )
        with serving(url, "direct", flue=True, flue_workflows="ticker,chat", sse_max_age=0.2) as machine:
            async with httpx.AsyncClient(base_url=machine.url) as http:
                assert (await http.post("/runs", json={"id": run})).status_code == 201
                page = (await http.get("/runs?limit=3")).json()
                assert page["runs"][0] == {
                    "runId": "run_4", "workflowName": "ticker", "status": "completed",
                    "startedAt": "2026-11-23T01:49:24.000Z", "endedAt": "2026-11-23T01:49:24.000Z",
                    "isError": False, "durationMs": 1,
                }  # fmt: skip
                assert [each["runId"] for each in page["runs"]] == ["run_4", "run_3", "run_2"]
                # Flue's own form of a cursor.
                assert b64decode(page["nextCursor"] + "==") == b'{"s":"2026-11-23T01:49:22.000Z","r":"run_2"}'
                rest = (await http.get(f"/runs?limit=3&cursor={page['nextCursor']}")).json()
                assert ([each["runId"] for each in rest["runs"]], rest.get("nextCursor")) == (["run_0"], None)
                active = (await http.get("/runs?status=active&workflowName=ticker")).json()["runs"]
                assert [each["runId"] for each in active] == ["run_3", "run_0"]
                own = (await http.get("/runs?source=gateway&limit=5")).json()["runs"]
                live = await http.get("/runs?source=gateway&live=sse&limit=5")
                assert json.loads(read(live.content).events[0].data)["list"] == own
                assert [each["runId"] for each in own] == [run]
                for wrong in ("limit=0", "status=x", "cursor=x", "metadata.a=b", "source=x", "limit=1&limit=2"):
                    assert (await http.get(f"/runs?{wrong}")).status_code == 400


async def test_the_gateways_own_runs_stay_beside_them(http: httpx.AsyncClient, app: App, run: str) -> None:
    url = f"/runs/{run}"
    assert (await http.get(url)).status_code == 404
    assert (await http.put(url, headers={"content-type": "application/json"})).status_code == 201
    for i in range(3):
        assert (await http.post(url, json={"i": i})).status_code == 204
    answer = await http.get(url)
    assert answer.json() == [{"i": 0}, {"i": 1}, {"i": 2}]
    assert answer.headers["stream-next-offset"] == offset(3)  # its own offsets count what was read
    assert (await http.delete(url)).status_code == 204


async def test_foreign_events_stay_one_line_of_an_event_stream(gateway: Running, app: App, run: str) -> None:
    await app.begin(run)
    await app.append(run, '{\n "text": "a\\nb"\r\n}')
    await app.close(run)
    assert await follow(gateway, run) == [{"text": "a\nb"}]


async def test_rows_beyond_the_tail_are_no_events_yet(
    gateway: Running, http: httpx.AsyncClient, app: App, run: str
) -> None:
    await app.begin(run)
    for i in range(2):
        await app.append(run, event(run, i))
    await app.connection.execute(
        "INSERT INTO flue_event_stream_entries (path, seq, data) VALUES ($1, 2, '{}')", f"runs/{run}"
    )
    answer = await http.get(f"/runs/{run}")
    assert [each["eventIndex"] for each in answer.json()] == [0, 1]
    assert answer.headers["stream-next-offset"] == offset(1)
    await app.close(run)
    assert [each["eventIndex"] for each in await follow(gateway, run)] == [0, 1]


async def test_rows_that_somebody_has_taken_away_keep_nobody_waiting(
    gateway: Running, http: httpx.AsyncClient, app: App, run: str
) -> None:
    await app.begin(run)
    for i in range(6):
        await app.append(run, event(run, i))
    await app.close(run)
    await app.connection.execute(
        "DELETE FROM flue_event_stream_entries WHERE path = $1 AND seq IN (0, 1, 3, 5)", f"runs/{run}"
    )
    answer = await http.get(f"/runs/{run}")
    assert [each["eventIndex"] for each in answer.json()] == [2, 4]
    assert answer.headers["stream-next-offset"] == offset(5)
    assert answer.headers["stream-closed"] == "true"
    assert [each["eventIndex"] for each in await follow(gateway, run)] == [2, 4]
    assert [each["eventIndex"] for each in await follow(gateway, run, offset(3))] == [4]


@pytest.mark.parametrize("protocol", ["asgi"])
async def test_through_another_server_it_is_the_same(flue_database: str, app: App, run: str, protocol: str) -> None:
    await app.begin(run)
    with serving(flue_database, protocol, flue=True, flue_workflows="*", flue_poll_interval=0.05) as machine:
        following = asyncio.create_task(follow(machine, run))
        for i in range(20):
            await app.append(run, event(run, i))
        await app.close(run)
        assert [each["eventIndex"] for each in await following] == list(range(20))


async def test_its_readers_are_counted_like_all_others(flue_database: str, app: App, run: str) -> None:
    names = ("catch_ups_total", "log_reads_total", "tails", 'readers{mode="sse"}')

    async def scrape(http: httpx.AsyncClient) -> list[float]:
        lines = (await http.get("/metrics")).text.splitlines()
        return [float(line.split()[1]) for name in names for line in lines if line.startswith(f"run_gateway_{name} ")]

    await app.begin(run)
    with serving(flue_database, "direct", flue=True, flue_workflows="*") as machine:
        async with httpx.AsyncClient(base_url=machine.url) as http:
            before = await scrape(http)
            assert (await http.get(f"/runs/{run}?offset=-1")).status_code == 200
            async with http.stream("GET", f"/runs/{run}?offset=-1&live=sse") as response:
                pieces = response.aiter_raw()  # kept: when the generator is freed, the connection ends
                await anext(pieces)
                after = await scrape(http)
    assert [new - old for old, new in zip(before, after, strict=True)] == [1, 2, 1, 1]
