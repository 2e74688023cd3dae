"""`POST /v1/appends` over real sockets: each append is what its own POST would be, whatever becomes of the others."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from gateway.http import appends as route
from tests.http.answers import JSON, at, content
from tests.servers import Client, Running, client_of, serving, until

NDJSON = {"content-type": "application/x-ndjson"}


def body(*appends: tuple[dict[str, Any], bytes]) -> bytes:
    return b"".join(b"%b\n%b\n" % (json.dumps(head).encode(), events) for head, events in appends)


async def together(client: Client, *appends: tuple[dict[str, Any], bytes], **headers: str) -> list[dict[str, Any]]:
    """The outcomes, in the order of the appends."""
    answer = await client("POST", "/v1/appends", headers=NDJSON | headers, content=body(*appends))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    outcomes = sorted(map(json.loads, answer.text.splitlines()), key=lambda outcome: outcome["append"])
    assert [outcome["append"] for outcome in outcomes] == [*range(len(appends))]
    return outcomes


def numbered(name: str, seq: int, epoch: int = 0) -> dict[str, Any]:
    return {"stream": name, "producerId": "p", "producerEpoch": epoch, "producerSeq": seq}


@pytest.fixture
def names() -> list[str]:
    """Paths of a run, which sorts first, and of three streams."""
    tag = uuid4().hex
    return [f"runs/{tag}", f"s/{tag}/a", f"s/{tag}/b", f"s/{tag}/c"]


@pytest.fixture
async def streams(client: Client, names: list[str]) -> list[str]:
    for name in names:
        await client("PUT", f"/v1/stream/{name}", headers=JSON)
    return names


async def read(client: Client, name: str) -> Any:
    return await content(client, f"/v1/stream/{name}")


async def test_they_are_appended_in_one_commit(client: Client, gateway: Running, streams: list[str]) -> None:
    commits = gateway.app._log.writer.commit_requests
    before = sum(commits.counts)
    outcomes = await together(client, *[({"stream": name}, b'[{"a": 1},"x"]') for name in streams])
    assert [(outcome["status"], outcome["streamNextOffset"]) for outcome in outcomes] == [(204, at(2))] * 4
    assert sum(commits.counts) == before + 1
    raw = await client("GET", f"/v1/stream/{streams[1]}")
    assert raw.content == b'[{"a": 1},"x"]', "bytes are kept"


async def test_one_outcome_says_nothing_of_another(client: Client, streams: list[str]) -> None:
    run, closed, text, fine = streams
    await client("POST", f"/v1/stream/{closed}", headers={"stream-closed": "true"})
    await client("DELETE", f"/v1/stream/{text}")
    await client("PUT", f"/v1/stream/{text}", headers={"content-type": "text/plain"})
    outcomes = await together(
        client,
        ({"stream": closed}, b"1"),
        ({"stream": "s/none"}, b"1"),
        ({"stream": text}, b"1"),
        ({"stream": fine}, b"[1,"),
        (numbered(run, 5), b"1"),
        ({"stream": fine, "unknown": 1}, b"1"),
        ({"stream": fine}, b'"taken"'),
    )
    told = [(outcome["status"], outcome.get("error", {}).get("type")) for outcome in outcomes]
    assert told == [
        (409, "stream_closed"),
        (404, "stream_not_found"),
        (409, "content_type_mismatch"),
        (400, "invalid_json"),
        (409, "producer_sequence_gap"),
        (400, "invalid_request"),
        (204, None),
    ]
    assert (outcomes[0]["streamClosed"], outcomes[0]["streamNextOffset"]) == (True, at(0))
    assert (outcomes[4]["producerExpectedSeq"], outcomes[4]["producerReceivedSeq"]) == (0, 5)
    assert await read(client, fine) == ["taken"]


async def test_sent_again_it_appends_nothing_twice(client: Client, streams: list[str]) -> None:
    whole = [(numbered(name, 0), b"[1,2]") for name in streams]
    first = await together(client, *whole)
    again = await together(client, *whole, (numbered(streams[0], 1) | {"streamClosed": True}, b"3"))
    assert [outcome["status"] for outcome in first] == [200] * 4
    assert [outcome["status"] for outcome in again] == [204] * 4 + [200]
    assert {(outcome["producerEpoch"], outcome["producerSeq"]) for outcome in first + again[:-1]} == {(0, 0)}
    assert again[-1]["streamClosed"] is True
    assert [await read(client, name) for name in streams] == [[1, 2, 3], [1, 2], [1, 2], [1, 2]]
    (late,) = await together(client, (numbered(streams[0], 2), b"4"))
    assert (late["status"], late["error"]["type"]) == (409, "stream_closed")
    await together(client, (numbered(streams[1], 0, epoch=7), b"3"))
    (stale,) = await together(client, (numbered(streams[1], 1), b"4"))
    assert (stale["status"], stale["producerEpoch"]) == (403, 7)


async def test_appends_to_one_stream_keep_their_order(client: Client, streams: list[str]) -> None:
    await together(client, *[(numbered(streams[0], n), b"%d" % n) for n in range(20)])
    await together(client, *[({"stream": streams[1]}, b"%d" % n) for n in range(20)])
    assert await read(client, streams[0]) == await read(client, streams[1]) == [*range(20)]


async def test_heartbeats_go_along_and_learn_of_a_cancel(client: Client, run: str) -> None:
    name = run[1:]
    await client("POST", "/runs", json={"id": name[5:], "lease": 30})
    await client("POST", f"{run}/cancel")
    beat, append = await together(client, ({"stream": f"{name}/heartbeat"}, b""), (numbered(name, 0), b"1"))
    assert (beat["status"], beat["runCancelRequested"]) == (204, True)
    assert (append["status"], append["runCancelRequested"]) == (200, True)


async def test_what_is_no_list_of_appends_is_refused_whole(client: Client, streams: list[str]) -> None:
    fine = body(({"stream": streams[0]}, b"1"))
    for sent, headers, expected in (
        (fine + b"{}", NDJSON, (400, "invalid_request")),
        (fine + b"[]\n1\n", NDJSON, (400, "invalid_request")),
        (fine, JSON, (400, "invalid_request")),
        (fine, NDJSON | {"content-encoding": "gzip"}, (415, "unsupported_coding")),
        (fine * 10_001, NDJSON, (413, "body_too_large")),
    ):
        answer = await client("POST", "/v1/appends", headers=headers, content=sent)
        assert (answer.status_code, answer.json()["error"]["type"]) == expected
    assert (await client("GET", "/v1/appends")).status_code == 405
    assert await read(client, streams[0]) == []


async def test_a_stream_whose_row_is_held_holds_up_nobody_else(
    client: Client, gateway: Running, streams: list[str], database_of_all: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their outcomes come while its own is waited for."""
    monkeypatch.setattr(route, "TOGETHER", 0.01)
    connection = await asyncpg.connect(database_of_all)
    try:
        held = connection.transaction()
        await held.start()
        await connection.execute("SELECT 1 FROM run_gateway.streams WHERE path = $1 FOR UPDATE", streams[1])
        content = body(*[({"stream": name}, b"1") for name in streams])
        async with (
            httpx.AsyncClient(base_url=gateway.url, timeout=60) as http,
            http.stream("POST", "/v1/appends", headers=NDJSON, content=content) as answer,
        ):
            lines = answer.aiter_lines()
            first = [json.loads(await anext(lines)) for _ in range(3)]
            assert sorted(outcome["append"] for outcome in first) == [0, 2, 3]
            assert await read(client, streams[3]) == [1]
            await held.rollback()
            last = json.loads(await anext(lines))
            assert (last["append"], last["status"]) == (1, 204)
            assert [line async for line in lines] == []
    finally:
        await connection.close()


async def test_many_go_to_the_log_in_turns(database_url: str) -> None:
    count = route.SLICE * 3
    with serving(database_url, "direct") as gateway:
        async with client_of(gateway) as client:
            await client("PUT", "/v1/stream/many", headers=JSON)
            outcomes = await together(client, *[({"stream": "many"}, b"%d" % n) for n in range(count)])
            assert {outcome["status"] for outcome in outcomes} == {204}
            assert await read(client, "many") == [*range(count)]
            metrics = (await client("GET", "/metrics")).text
    assert "run_gateway_appends_together_count 1" in metrics
    assert f"run_gateway_appends_together_sum {count}" in metrics


async def test_without_room_each_is_told_so(database_url: str) -> None:
    with serving(database_url, "direct", max_pending=1_000) as gateway:
        async with client_of(gateway) as client:
            await client("PUT", "/v1/stream/full", headers=JSON)
            event = json.dumps("x" * 400).encode()
            outcomes = await together(client, *[({"stream": "full"}, event) for _ in range(10)])
            statuses = [outcome["status"] for outcome in outcomes]
            assert statuses[:2] == [204, 204] and statuses[-1] == 429
            refused = outcomes[-1]
            assert refused["error"]["type"] == "too_many_pending" and 1 <= refused["retryAfter"] <= 3
            await until(lambda: gateway.app._log.writer.pending_bytes == 0)
            assert len(await read(client, "full")) == statuses.count(204)
