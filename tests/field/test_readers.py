"""Readers as the world has them, and what they get: browsers at every limit, line readers, waits for a run's end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest

from gateway.protocol.errors import Unavailable
from tests.servers import PATIENCE, Running, client_of, following, serving, until

JSON = {"content-type": "application/json"}
EVENT_SOURCE = {"accept": "text/event-stream", "cache-control": "no-cache"}
LIVE = "?offset=-1&live=sse"


@pytest.fixture
def run() -> str:
    return f"/runs/{uuid4().hex}"


@asynccontextmanager
async def open_reader(gateway: Running, target: str) -> AsyncIterator[None]:
    """A reader of another client, who is there when the block begins."""
    async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE) as http, http.stream("GET", target) as answer:
        assert answer.status_code == 200
        pieces = answer.aiter_raw()  # kept, since its end would be the response's
        await anext(pieces)
        yield


LIMITS: dict[str, tuple[int, dict[str, Any]]] = {
    "too_many_readers": (503, {"max_readers": 1}),
    "too_many_connections": (503, {"max_connections": 1}),
    "too_many_streams": (429, {"max_streams_per_token": 1}),
    "too_many_requests": (429, {"max_requests_per_address": 1}),
}


@pytest.mark.parametrize("limit", LIMITS)
async def test_an_event_source_at_a_limit_comes_back_by_itself(database_url: str, run: str, limit: str) -> None:
    status, settings = LIMITS[limit]
    with serving(database_url, "direct", **settings) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, headers={"connection": "close"}) as http:
            assert (await http.put(run, headers=JSON)).status_code == 201
            await until(lambda: not gateway.server.server_state.connections)
            async with open_reader(gateway, run + LIVE):
                refused = await http.get(run + LIVE)
                assert (refused.status_code, refused.json()["error"]["type"]) == (status, limit)
                for query, asks in ((LIVE, EVENT_SOURCE), ("", EVENT_SOURCE), (LIVE, {"last-event-id": "-1"})):
                    answer = await http.get(run + query, headers=asks)
                    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
                    assert 1000 <= int(answer.text.removeprefix("retry: ")) <= 3000
                    assert answer.text.endswith("\n\n"), "it ends cleanly"
                assert gateway.app._limits.readers.sse.count == 1, "such an answer takes nobody's place"
                several = {"accept": "application/json, text/event-stream"}
                assert (await http.get(run + LIVE, headers=several)).status_code == status
                polling = await http.get(f"{run}?offset=-1&live=long-poll", headers=EVENT_SOURCE)
                assert polling.status_code == status, "only an event stream can end in that way"


async def test_an_event_source_waits_for_what_cannot_be_read_now(
    database_url: str, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise Unavailable

    with serving(database_url, "direct") as gateway:
        async with client_of(gateway) as client:
            await client("PUT", run, headers=JSON)
            missing = await client("GET", f"{run}-none{LIVE}", headers=EVENT_SOURCE)
            assert missing.status_code == 404, "no waiting helps here"
            monkeypatch.setattr(gateway.app._hub, "_read_log", away)
            refused = await client("GET", run + LIVE)
            assert refused.json()["error"]["message"] == "The log cannot be reached: try again."
            assert (await client("GET", run + LIVE, headers=EVENT_SOURCE)).text.startswith("retry: ")
            monkeypatch.undo()
            gateway.app.begin_drain()
            await until(lambda: gateway.app._hub.drained)
            assert (await client("GET", run + LIVE)).json()["error"]["type"] == "draining"
            assert (await client("GET", run + LIVE, headers=EVENT_SOURCE)).text.startswith("retry: ")


@pytest.mark.parametrize("type", ["application/json", "text/plain", "application/octet-stream"])
async def test_a_reader_of_lines_of_64_kib_reads_a_long_run(database_url: str, run: str, type: str) -> None:
    """As with asyncio's readline or Go's bufio.Scanner. It is cut off in the middle, and resumes."""
    count, size = (1_500, 500) if type == "application/json" else (150, 5_000)
    content = [f'"{number:05}-{"x" * (size - 8)}"'.encode() for number in range(count)]
    with serving(database_url, "direct") as gateway:
        async with client_of(gateway) as client:
            await client("PUT", run, headers={"content-type": type})
            if type == "application/json":
                for first in range(0, count, 300):
                    body = b"[%b]" % b",".join(content[first : first + 300])
                    await client("POST", run, headers=JSON, content=body)
            else:
                posts = [client("POST", run, headers={"content-type": type}, content=event) for event in content]
                await asyncio.gather(*posts)
            await client("POST", run, headers={"stream-closed": "true"})
        offset, data, connections = "-1", 0, 0
        async with asyncio.timeout(PATIENCE):
            while offset:
                offset, read = await read_lines(gateway.port, run, offset, most=9)
                data += read
                connections += 1
    assert connections > 2
    assert data == count * (size + 1 if type == "application/json" else size)


async def read_lines(port: int, run: str, offset: str, most: int) -> tuple[str, int]:
    """At most so many data events, by lines that StreamReader allows. Returns where to resume; and their bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {run}?offset={offset}&live=sse HTTP/1.1\r\nhost: h\r\n\r\n".encode())
    while (await reader.readline()).strip():
        pass
    base64, events, size, name, id = False, 0, 0, b"", offset.encode()
    body = asyncio.StreamReader()
    unchunking = asyncio.create_task(unchunk(reader, body))
    try:
        while line := await body.readline():
            field, _, value = line.rstrip(b"\n").partition(b":")
            if field == b"id":
                id = value.strip()
            elif field == b"event":
                name = value.strip()
            elif field == b"data" and name == b"data":
                base64 = base64 or not value.startswith((b'"', b'["'))
                size += len(value) // 4 * 3 - value.count(b"=") if base64 else len(value) - (value[:1] == b"[")
                events += 1
            elif field == b"data" and b"streamClosed" in value:
                return "", size
            elif not line.strip() and name == b"control" and events >= most:
                return id.decode(), size
    finally:
        unchunking.cancel()
        writer.close()
    return id.decode(), size


async def unchunk(reader: asyncio.StreamReader, body: asyncio.StreamReader) -> None:
    while length := int(await reader.readline(), 16):
        body.feed_data(await reader.readexactly(length))
        await reader.readline()
    body.feed_eof()


# Waits for a run's end


async def test_a_wait_for_an_end_takes_a_readers_place(database_url: str, run: str) -> None:
    with serving(database_url, "direct", max_readers=2, max_streams_per_token=1) as gateway:
        readers = gateway.app._limits.readers
        async with client_of(gateway) as client, asyncio.TaskGroup() as tasks:
            await client("PUT", run, headers=JSON)
            waiting = tasks.create_task(client("GET", f"{run}?meta&wait=60"))
            await until(lambda: readers.long_polls.count == 1)
            refused = await client("GET", f"{run}?meta&wait=60")
            assert (refused.status_code, refused.json()["error"]["type"]) == (429, "too_many_streams")
            gateway.app._limits.streams.limit = 2  # type: ignore[union-attr]
            another = tasks.create_task(client("GET", f"{run}?meta&wait=60"))
            await until(lambda: readers.long_polls.count == 2)
            gateway.app._limits.streams.limit = 3  # type: ignore[union-attr]
            for target in (f"{run}?meta&wait=60", run + LIVE):
                refused = await client("GET", target)
                assert (refused.status_code, refused.json()["error"]["type"]) == (503, "too_many_readers")
                assert 1 <= int(refused.headers["retry-after"]) <= 3
            assert (await client("GET", f"{run}?meta")).json()["status"] == "active", "who does not wait takes none"
            await client("POST", run, headers={"stream-closed": "true"})
            assert (await waiting).json()["status"] == (await another).json()["status"] == "completed"
        await until(lambda: readers.long_polls.count == 0)


async def test_a_drain_is_not_taken_for_the_end_of_a_wait(database_url: str, run: str) -> None:
    with serving(database_url, "direct") as gateway:
        async with client_of(gateway) as client, asyncio.TaskGroup() as tasks:
            await client("PUT", run, headers=JSON)
            waiting = tasks.create_task(client("GET", f"{run}?meta&wait=60"))
            await until(lambda: gateway.app._limits.readers.long_polls.count == 1)
            gateway.app.begin_drain()
            answer = await waiting
            assert (answer.status_code, answer.json()["error"]["type"]) == (503, "draining")
            assert 1 <= int(answer.headers["retry-after"]) <= 3
            assert (await client("GET", f"{run}?meta&wait=60")).status_code == 503, "it waits no more"
            await client("POST", run, headers={"stream-closed": "true"})
            assert (await client("GET", f"{run}?meta&wait=60")).json()["status"] == "completed"


async def test_what_waits_ends_with_its_credential(database_url: str, run: str) -> None:
    secret = "s" * 32
    claims = {"sub": "ada", "scope": "read write", "exp": int(time.time()) + 3600}
    lasting = {"authorization": f"Bearer {jwt.encode(claims, secret, 'HS256')}"}
    with serving(database_url, "direct", auth="jwt", jwt_secret=secret, jwt_leeway=0) as gateway:
        async with client_of(gateway) as client, AsyncExitStack() as open:
            await client("PUT", run, headers=JSON | lasting)
            soon = {"authorization": f"Bearer {jwt.encode(claims | {'exp': int(time.time()) + 3}, secret, 'HS256')}"}
            follow = await open.enter_async_context(following(client, run + LIVE, **soon))
            answers = await asyncio.gather(
                client("GET", f"{run}?meta&wait=60", headers=soon),
                client("GET", f"{run}?offset=now&live=long-poll", headers=soon),
            )
            await follow.end()
            assert [answer.status_code for answer in answers] == [401, 204]
            assert answers[0].json()["error"]["type"] == "token_expired"
            record = await client("GET", f"{run}?meta&wait=0.1", headers=lasting)
            assert record.json()["status"] == "active", "one that lasts waits as long as it asked for"
