"""`live=sse` (§5.8) over real sockets: exact bytes, resuming, heartbeats, and clean ends."""

from __future__ import annotations

import asyncio
import re
from base64 import b64decode

import pytest

from gateway.fanout import follower
from gateway.protocol.errors import Unavailable
from tests.event_source import Reading
from tests.http.answers import JSON, at, refusal
from tests.log.rig import connected
from tests.servers import (
    PATIENCE,
    Client,
    Running,
    body_of,
    client_of,
    fail_later_pages,
    following,
    last_control,
    payloads,
    serving,
    until,
)

EVENT_SOURCE = {"Accept": "text/event-stream"}


def without_cursors(stream: bytes) -> bytes:
    return re.sub(rb'"streamCursor":"[0-9]+"', b'"streamCursor":"N"', stream)


def up_to_date(reading: Reading) -> bool:
    return any(event.type == "control" and "upToDate" in event.data for event in reading.events)


async def test_a_closed_stream_is_sent_whole_and_ends(client: Client, gateway: Running, path: str) -> None:
    await client("PUT", path, headers=JSON | {"Stream-Closed": "true"}, content='[{"a": 1}, 2]')
    answer = await gateway.get_raw(f"{path}?offset=-1&live=sse")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\ncontent-type: text/event-stream\r\n" in answer
    assert body_of(answer) == (
        b"retry: 1000\n"
        b"id: 0000000000000000_0000000000000002\n"
        b"event: data\n"
        b'data:[{"a": 1},2]\n'
        b"\n"
        b"id: 0000000000000000_0000000000000002\n"
        b"event: control\n"
        b'data:{"streamNextOffset":"0000000000000000_0000000000000002","streamClosed":true}\n'
        b"\n"
    )


@pytest.mark.parametrize("offset", ["now", at(1)])
async def test_at_the_end_of_a_closed_stream_is_one_control_event(
    client: Client, gateway: Running, path: str, offset: str
) -> None:
    await client("PUT", path, headers=JSON | {"Stream-Closed": "true"}, content="[1]")
    assert body_of(await gateway.get_raw(f"{path}?offset={offset}&live=sse")) == (
        b"retry: 1000\nid: 0000000000000000_0000000000000001\nevent: control\n"
        b'data:{"streamNextOffset":"0000000000000000_0000000000000001","streamClosed":true}\n\n'
    )


async def test_what_is_there_comes_first_and_then_what_comes(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON, content="[1]")
    async with following(client, f"{path}?offset=-1&live=sse") as follow:
        await follow.until(up_to_date)
        await client("POST", path, headers=JSON, content="[2,3]")
        await follow.until(lambda reading: payloads(reading) == [1, 2, 3])
        await client("POST", path, headers=JSON | {"Stream-Closed": "true"}, content="4")
        await follow.end()
    assert without_cursors(follow.bytes) == (
        b"retry: 1000\n"
        b"id: 0000000000000000_0000000000000001\nevent: data\ndata:[1]\n\n"
        b"id: 0000000000000000_0000000000000001\nevent: control\n"
        b'data:{"streamNextOffset":"0000000000000000_0000000000000001","streamCursor":"N","upToDate":true}\n\n'
        b"id: 0000000000000000_0000000000000003\nevent: data\ndata:[2,3]\n\n"
        b"id: 0000000000000000_0000000000000003\nevent: control\n"
        b'data:{"streamNextOffset":"0000000000000000_0000000000000003","streamCursor":"N","upToDate":true}\n\n'
        b"id: 0000000000000000_0000000000000004\nevent: data\ndata:[4]\n\n"
        b"id: 0000000000000000_0000000000000004\nevent: control\n"
        b'data:{"streamNextOffset":"0000000000000000_0000000000000004","streamClosed":true}\n\n'
    )


async def test_an_empty_stream_says_where_it_is(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON)
    async with following(client, f"{path}?offset=now&live=sse") as follow:
        await follow.until(up_to_date)
        await client("POST", path, headers={"Stream-Closed": "true"})
        await follow.end()
    assert without_cursors(follow.bytes) == (
        b"retry: 1000\nid: 0000000000000000_0000000000000000\nevent: control\n"
        b'data:{"streamNextOffset":"0000000000000000_0000000000000000","streamCursor":"N","upToDate":true}\n\n'
        b"id: 0000000000000000_0000000000000000\nevent: control\n"
        b'data:{"streamNextOffset":"0000000000000000_0000000000000000","streamClosed":true}\n\n'
    )


async def test_text_and_bytes_come_as_their_type_says(client: Client, gateway: Running, path: str) -> None:
    text, binary = path + "-t", path + "-b"
    closed = {"Stream-Closed": "true"}
    await client("PUT", text, headers=closed | {"Content-Type": "text/plain"}, content=b"a\r\n b\rid: 9\n\n")
    answer = await gateway.get_raw(f"{text}?offset=-1&live=sse")
    assert b"\nevent: data\ndata:a\ndata:  b\ndata:id: 9\ndata:\ndata:\n\nid: " in answer
    assert b"base64" not in answer
    await client("PUT", binary, headers=closed, content=b"\x00\xff\n")
    async with following(client, f"{binary}?offset=-1&live=sse") as follow:
        assert follow.response.headers["stream-sse-data-encoding"] == "base64"
        assert b64decode((await follow.end()).events[0].data) == b"\x00\xff\n"


async def test_an_event_source_resumes_at_any_machine(client: Client, gateways: dict[str, Running], path: str) -> None:
    await client("PUT", path, headers=JSON, content="[1,2]")
    async with following(client, f"{path}?offset=-1&live=sse") as follow:
        resume = (await follow.until(up_to_date)).last_event_id
    await client("POST", path, headers=JSON | {"Stream-Closed": "true"}, content="3")
    for machine in gateways.values():
        async with client_of(machine) as other:
            for query in ("?offset=-1&live=sse", "?live=sse", "?offset=now&live=sse"):
                async with following(other, path + query, **{"Last-Event-ID": resume}) as again:
                    assert payloads(await again.end()) == [3]


async def test_a_last_event_id_that_is_none_is_refused(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON)
    answer = await client("GET", f"{path}?live=sse", headers={"Last-Event-ID": "abc"})
    assert refusal(answer) == (400, "invalid_request")
    doubled = [("Last-Event-ID", at(0)), ("Last-Event-ID", at(0))]
    assert refusal(await client("GET", f"{path}?live=sse", headers=doubled)) == (400, "invalid_request")


async def test_a_run_is_followed_from_so_many_events_before_its_tail(client: Client, run: str) -> None:
    await client("PUT", run, headers=JSON | {"Stream-Closed": "true"}, content="[1,2,3]")
    async with following(client, f"{run}?offset=-1&live=sse&tail=2") as follow:
        assert payloads(await follow.end()) == [2, 3]


async def test_a_long_log_comes_in_pieces_each_with_a_control_event(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON)
    for n in range(6):
        await client("POST", path, headers=JSON, json=[f"{n}-{i}-" + "x" * 500 for i in range(30)])
    await client("POST", path, headers={"Stream-Closed": "true"})
    async with following(client, f"{path}?offset=-1&live=sse") as follow:
        reading = await follow.end()
    assert payloads(reading) == [f"{n}-{i}-" + "x" * 500 for n in range(6) for i in range(30)]
    types = [event.type for event in reading.events]
    assert types[::2] == ["data"] * (len(types) // 2)
    assert types[1::2] == ["control"] * (len(types) // 2)
    controls = [event for event in reading.events if event.type == "control"]
    assert len(controls) > 5
    assert [("upToDate" in event.data or "streamClosed" in event.data) for event in controls] == [
        *[False] * (len(controls) - 1),
        True,
    ]
    offsets = [event.last_event_id for event in controls]
    assert offsets == sorted(set(offsets)), "never two at one offset"


@pytest.mark.parametrize("has_seen_the_end", [True, False])
async def test_an_event_source_at_the_end_of_a_closed_run_gets_204(
    client: Client, path: str, has_seen_the_end: bool
) -> None:
    """HTML §9.2.3. Also one that was away as it was closed, and has all that there was before."""
    await client("PUT", path, headers=JSON, content="[1]")
    live = f"{path}?offset=-1&live=sse"
    async with following(client, live, **EVENT_SOURCE) as follow:
        resume = (await follow.until(up_to_date)).last_event_id
        await client("POST", path, headers={"Stream-Closed": "true"})
        if has_seen_the_end:
            ended = await follow.end()
            assert last_control(ended) == {"streamNextOffset": at(1), "streamClosed": True}
            resume = ended.last_event_id
    over = await client("GET", live, headers=EVENT_SOURCE | {"Last-Event-ID": resume})
    assert (over.status_code, over.content, over.headers["stream-closed"]) == (204, b"", "true")
    assert over.headers["stream-next-offset"] == at(1)
    assert (await client("GET", f"{live}&lastEventId={resume}", headers=EVENT_SOURCE)).status_code == 204
    before = await client("GET", live, headers=EVENT_SOURCE | {"Last-Event-ID": "-1"})
    assert b"data:[1]" in before.content and b"streamClosed" in before.content, "it has not had all of it"
    plain = await client("GET", f"{path}?offset={at(1)}&live=sse", headers=EVENT_SOURCE)
    assert b"streamClosed" in plain.content, "a client of the protocol has to be told by an event (§5.8)"


async def test_an_event_source_needs_nothing_but_the_address(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON | {"Stream-Closed": "true"}, content="[1,2]")
    for query in ("", "?live=sse", "?offset=-1"):
        async with following(client, path + query, **EVENT_SOURCE) as follow:
            assert follow.response.headers["content-type"] == "text/event-stream"
            assert payloads(await follow.end()) == [1, 2]
    plain = await client("GET", path, headers={"Accept": "application/json, text/event-stream"})
    assert (plain.json(), "accept" in plain.headers["vary"]) == ([1, 2], True)


async def test_onmessage_hears_of_each_event_by_itself(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON, content='[{"n":1},2]')
    async with following(client, f"{path}?named=false", **EVENT_SOURCE) as follow:
        resume = (await follow.until(up_to_date)).events[0].last_event_id
        await client("POST", path, headers=JSON, content="[3,[4]]")
        await client("POST", path, headers=JSON | {"Stream-Closed": "true"}, content="5")
        reading = await follow.end()
    assert [event.data for event in reading.events if event.type == "message"] == ['{"n":1}', "2", "3", "[4]", "5"]
    assert {event.type for event in reading.events} == {"message", "control"}
    assert resume == at(1)
    async with following(client, f"{path}?named=false", **EVENT_SOURCE, **{"Last-Event-ID": resume}) as follow:
        again = await follow.end()
    assert [event.data for event in again.events if event.type == "message"] == ["2", "3", "[4]", "5"]


@pytest.mark.parametrize("query", ["offset=-1&live=sse&wait=60", "wait=60"])
async def test_a_stream_that_is_not_there_yet_is_waited_for(
    client: Client, gateways: dict[str, Running], path: str, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """News wakes those who wait, from whichever Machine: they need not look again."""
    monkeypatch.setattr(follower, "LOOK", PATIENCE)
    monkeypatch.setattr(follower, "MOST_LOOK", PATIENCE)
    waiting = asyncio.create_task(_read_whole(client, f"{path}?{query}"))
    await until(lambda: any(path.endswith(name) for gateway in gateways.values() for name in gateway.app._hub.tails))
    async with client_of(gateways["direct"]) as other:
        await other("PUT", path, headers=JSON | {"Stream-Closed": "true"}, content="[1]")
    assert payloads(await waiting) == [1]


async def test_without_news_a_stream_is_looked_for(
    client: Client, gateway: Running, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "LOOK", 0.01)
    monkeypatch.setattr(gateway.app._hub, "ring", lambda news: None)
    monkeypatch.setattr(gateway.app._hub, "created", lambda path: None)
    waiting = asyncio.create_task(_read_whole(client, f"{path}?wait=60"))
    await until(lambda: bool(gateway.app._hub.tails))
    await client("PUT", path, headers=JSON | {"Stream-Closed": "true"}, content="[1]")
    assert payloads(await waiting) == [1]


async def _read_whole(client: Client, target: str) -> Reading:
    async with following(client, target, **EVENT_SOURCE) as follow:
        return await follow.end()


async def test_a_stream_that_never_comes_is_404_in_the_end(client: Client, gateway: Running, path: str) -> None:
    for query in ("offset=-1&live=sse&wait=0.2", "offset=-1&live=long-poll&wait=0.2", "wait=0"):
        assert refusal(await client("GET", f"{path}?{query}", headers=EVENT_SOURCE)) == (404, "stream_not_found")
    await until(lambda: not gateway.app._hub.tails)


async def test_a_reader_who_leaves_while_it_waits_costs_nothing_more(
    client: Client, gateway: Running, path: str
) -> None:
    waiting = asyncio.create_task(client("GET", f"{path}?offset=-1&live=sse&wait=60"))
    await until(lambda: bool(gateway.app._hub.tails))
    waiting.cancel()
    await until(lambda: not gateway.app._hub.tails)


async def test_who_was_told_of_an_end_by_the_version_before_reads_on(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON, content="[1,2]")
    told = {"Last-Event-ID": at(1) + "_closed"}
    async with following(client, f"{path}?offset=-1&live=sse", **told) as follow:
        assert payloads(await follow.until(up_to_date)) == [2]
    assert refusal(await client("GET", f"{path}?offset={at(1)}_closed")) == (400, "invalid_request")


async def test_lines_of_live_events_are_short_enough_for_line_readers(
    client: Client, gateways: dict[str, Running], path: str
) -> None:
    await client("PUT", path, headers=JSON)
    events = [[f"{n}-{i}-" + "x" * 90 for i in range(1_000)] for n in range(3)]
    for machine in gateways.values():
        async with client_of(machine) as other, following(other, f"{path}?offset=-1&live=sse") as follow:
            await follow.until(up_to_date)
            for batch in events:
                await client("POST", path, headers=JSON, json=batch)
            await follow.until(lambda reading: len(payloads(reading)) >= 3_000)
            assert max(map(len, follow.bytes.split(b"\n"))) < 32_100
        await client("DELETE", path)
        await client("PUT", path, headers=JSON)


async def test_readers_of_both_machines_get_the_log_once_and_in_order(
    gateways: dict[str, Running], client: Client, path: str
) -> None:
    await client("PUT", path, headers=JSON)
    total = 120

    async def follow_to_the_end(machine: Running, offset: str) -> list[int]:
        async with client_of(machine) as other, following(other, f"{path}?offset={offset}&live=sse") as follow:
            found: list[int] = payloads(await follow.end())
            return found

    async def write() -> None:
        for n in range(0, total, 3):
            await client("POST", path, headers=JSON, json=[n, n + 1, n + 2])
        await client("POST", path, headers={"Stream-Closed": "true"})

    machines = list(gateways.values())
    *found, _ = await asyncio.gather(*(follow_to_the_end(m, "-1") for m in machines * 3), write())
    assert found == [list(range(total))] * 6


async def test_a_deleted_stream_ends_its_readers_cleanly(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON)
    async with following(client, f"{path}?offset=-1&live=sse") as follow:
        await follow.until(up_to_date)
        await client("DELETE", path)
        assert "streamClosed" not in last_control(await follow.end())


async def test_a_new_streams_follower_gets_nothing_of_the_expired_one(
    client: Client, gateway: Running, path: str, database_of_all: str
) -> None:
    stream = path.removeprefix("/v1/stream/")
    await client("PUT", path, headers=JSON | {"Stream-Expires-At": "2999-01-01T00:00:00Z"}, content="[1,2]")
    async with following(client, f"{path}?offset=-1&live=sse") as old:
        await old.until(up_to_date)
        async with connected(database_of_all) as database:
            await database.execute("UPDATE run_gateway.streams SET expires_at = now() WHERE path = $1", stream)
        assert (await client("PUT", path, headers=JSON, content="[3]")).status_code == 201
        async with following(client, f"{path}?offset=-1&live=sse") as new:
            assert payloads(await new.until(up_to_date)) == [3]
        assert payloads(await old.end()) == [1, 2]


async def test_a_source_that_grows_wakes_no_reader_of_its_fork(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON, content="[1]")
    await client("PUT", path + "-f", headers={"Stream-Forked-From": path})
    async with following(client, f"{path}-f?offset=-1&live=sse") as follow:
        await follow.until(up_to_date)
        await client("POST", path, headers=JSON, content="2")
        await client("POST", path + "-f", headers=JSON | {"Stream-Closed": "true"}, content="3")
        assert payloads(await follow.end()) == [1, 3]


async def test_cursors_are_ahead_of_the_one_that_the_reader_came_with(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON)
    async with following(client, f"{path}?offset=-1&live=sse") as follow:
        cursor = int(last_control(await follow.until(up_to_date))["streamCursor"])
    async with following(client, f"{path}?offset=-1&live=sse&cursor={cursor + 5}") as follow:
        assert int(last_control(await follow.until(up_to_date))["streamCursor"]) > cursor + 5


@pytest.mark.xfail(strict=True, reason="BUG of uvicorn: it answers HTTP/1.0 in chunks, which HTTP/1.0 does not know")
async def test_a_reader_of_http_1_0_is_sent_no_chunks(client: Client, gateway: Running, path: str) -> None:
    await client("PUT", path, headers=JSON | {"Stream-Closed": "true"}, content="[1]")
    answer = await gateway.raw(f"GET {path}?offset=-1&live=sse HTTP/1.0\r\nHost: h\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert body.startswith(b"retry: 1000\nid: ")


async def test_a_reader_ahead_of_the_log_is_told_and_holds_nobody_up(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON)
    async with following(client, f"{path}?offset=-1&live=sse") as follow:
        await follow.until(up_to_date)
        ahead = await client("GET", f"{path}?offset={at(99)}&live=sse")
        assert refusal(ahead) == (410, "offset_gone")
        assert ahead.headers["stream-next-offset"] == at(0)
        await client("POST", path, headers=JSON, content="[1]")
        await follow.until(lambda reading: payloads(reading) == [1], patience=10)


# Settings of their own


async def test_silence_is_broken_by_comments(database_url: str, protocol: str, path: str) -> None:
    with serving(database_url, protocol, heartbeat=0.3) as gateway:
        async with client_of(gateway) as client:
            await client("PUT", path, headers=JSON)
            async with following(client, f"{path}?offset=-1&live=sse") as follow:
                reading = await follow.until(lambda reading: len(reading.comments) >= 2)
                assert len(reading.events) == 1
                assert follow.bytes.endswith(b"\n\n: heartbeat\n\n")
                await client("POST", path, headers=JSON | {"Stream-Closed": "true"}, content="1")
                assert payloads(await follow.end()) == [1]


async def test_at_its_maximum_age_it_ends_cleanly_and_is_resumed(database_url: str, protocol: str, path: str) -> None:
    with serving(database_url, protocol, sse_max_age=0.3) as gateway:
        async with client_of(gateway) as client:
            await client("PUT", path, headers=JSON, content="[1]")
            answer = await gateway.get_raw(f"{path}?offset=-1&live=sse")
            body = body_of(answer)
            assert b"streamClosed" not in body
            assert b'"upToDate":true}\n\n' in body
            async with following(client, f"{path}?offset=-1&live=sse") as follow:
                resume = (await follow.end()).last_event_id
            assert resume == at(1)
            await client("POST", path, headers=JSON | {"Stream-Closed": "true"}, content="2")
            async with following(client, f"{path}?offset={resume}&live=sse") as follow:
                assert payloads(await follow.end()) == [2]


async def test_a_drain_ends_readers_cleanly_and_takes_no_new_ones(database_url: str, protocol: str, path: str) -> None:
    with serving(database_url, protocol) as gateway:
        async with client_of(gateway) as client:
            await client("PUT", path, headers=JSON, content="[1]")
            async with following(client, f"{path}?offset=-1&live=sse") as follow:
                await follow.until(up_to_date)
                gateway.app.begin_drain()
                assert "streamClosed" not in last_control(await follow.end())
            for live in ("sse", "long-poll"):
                refused = await client("GET", f"{path}?offset=-1&live={live}")
                assert refusal(refused) == (503, "draining")
                assert 1 <= int(refused.headers["retry-after"]) <= 3
            assert (await client("GET", path)).json() == [1]
            ready = await client("GET", "/ready")
            assert (ready.status_code, ready.json()["draining"]) == (503, True)
            assert (await client("GET", "/health")).status_code == 200


async def test_a_reader_that_outlives_the_drain_is_ended_cleanly_too(
    database_url: str, protocol: str, path: str
) -> None:
    """What the server cancels when its patience is over: a response that breaks off would not be resumed (law 9)."""
    with serving(database_url, protocol) as gateway:
        async with client_of(gateway) as client:
            await client("PUT", path, headers=JSON, content="[1]")
            async with following(client, f"{path}?offset=-1&live=sse") as follow:
                await follow.until(up_to_date)
                (task,) = gateway.server.server_state.tasks
                task.get_loop().call_soon_threadsafe(task.cancel)
                assert payloads(await follow.end()) == [1]


async def test_a_log_that_goes_away_ends_the_read_cleanly(
    database_url: str, protocol: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(database_url, protocol, page_bytes=1024) as gateway:
        async with client_of(gateway) as client:
            await client("PUT", path, headers=JSON)
            await client("POST", path, headers=JSON, json=["x" * 600] * 10)
            fail_later_pages(monkeypatch, gateway.app._hub, Unavailable())
            async with following(client, f"{path}?offset=-1&live=sse") as follow:
                reading = await follow.end()
            assert len(payloads(reading)) == 2
            assert "streamClosed" not in last_control(reading)
            monkeypatch.undo()
            async with following(client, f"{path}?offset={reading.last_event_id}&live=sse") as again:
                assert len(payloads(await again.until(up_to_date))) == 8


async def test_a_reader_that_goes_away_leaves_nothing_behind(database_url: str, protocol: str, path: str) -> None:
    with serving(database_url, protocol) as gateway:
        async with client_of(gateway) as client:
            await client("PUT", path, headers=JSON)
            for live in ("sse", "long-poll"):
                _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                writer.write(f"GET {path}?offset=-1&live={live} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
                await until(lambda: bool(gateway.app._hub.tails))
                writer.close()
                await writer.wait_closed()
                await until(lambda: not gateway.app._hub.tails)
                assert not any(gateway.app._hub.deadlines._slots.values())


async def test_a_connection_serves_on_after_a_read_has_ended(database_url: str, protocol: str, path: str) -> None:
    with serving(database_url, protocol, sse_max_age=0.2) as gateway:
        async with client_of(gateway) as client:
            await client("PUT", path, headers=JSON | {"Stream-Closed": "true"}, content="[1]")
            sse = f"GET {path}?offset=-1&live=sse HTTP/1.1\r\nHost: h\r\n\r\n"
            plain = f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
            answer = await gateway.raw((sse + sse + plain).encode())
            assert answer.count(b"HTTP/1.1 200 OK\r\n") == 3
            assert answer.endswith(b"\r\n\r\n[1]")
