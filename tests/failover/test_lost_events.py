"""A standby takes over that lacks events which readers have had: each is told, and none is given others in silence."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from gateway.log.migrations import migrate
from run_gateway.sse import Steps
from tests.failover.servers import Server, Servers, servers, until
from tests.faults.network import distant
from tests.faults.scene import gateway
from tests.servers import Running

PATIENCE = 240
JSON = {"content-type": "application/json"}
Events = list[dict[str, Any]]
COMMON, LOST = 100, 10  # events that both servers have, and those that only the first one had


def numbers(first: int, count: int, made: str) -> bytes:
    return json.dumps([{"n": n, "made": made} for n in range(first, first + count)]).encode()


@dataclass
class Lived:
    """A Machine that was there before, and what its readers had by then."""

    http: httpx.AsyncClient
    running: Running
    server: Server
    common: str  # the offset up to which both servers agree
    lost: str  # the offset that a reader had last
    etag: str  # of the answer that ended there
    live: asyncio.Task[Events]  # a reader that followed all the time: what it was given until it was ended


async def follow(http: httpx.AsyncClient, path: str, offset: str, got: asyncio.Event, enough: int) -> Events:
    """What an SSE reader is given until its response ends; `got` is set when it has had `enough`."""
    given: Events = []
    parse = Steps()
    async with http.stream("GET", path, params={"offset": offset, "live": "sse"}) as response:
        assert response.status_code == 200, await response.aread()
        async for chunk in response.aiter_bytes():
            for step in parse.feed(chunk):
                for data in step.data:
                    given += json.loads(data)
            if len(given) >= enough:
                got.set()
    return given


async def lose(all_of_them: Servers, running: Running, http: httpx.AsyncClient, primary: Server, proxy: Any) -> Lived:
    """The primary is lost, and its standby has all events but the last."""
    standby = await all_of_them.standby(primary)
    for path in ("/runs/a", "/runs/closed", "/runs/quiet"):
        assert (await http.put(path, headers=JSON)).status_code == 201
        posted = await http.post(path, headers=JSON, content=numbers(1, COMMON, "before"))
        assert posted.status_code == 204
    common = posted.headers["stream-next-offset"]
    await standby.has_all_of(primary)
    await standby.stop_following()
    got = asyncio.Event()
    live = asyncio.create_task(follow(http, "/runs/a", "-1", got, COMMON + LOST))
    for path in ("/runs/a", "/runs/quiet"):
        posted = await http.post(path, headers=JSON, content=numbers(COMMON + 1, LOST, "lost"))
        assert posted.status_code == 204
    assert (await http.post("/runs/closed", headers={"stream-closed": "true"})).status_code == 204
    await got.wait()
    read = await http.get("/runs/a", params={"offset": "-1"})  # whose page is remembered
    assert len(read.json()) == COMMON + LOST
    at_the_end = {"offset": read.headers["stream-next-offset"], "live": "long-poll"}
    poll = asyncio.create_task(http.get("/runs/a", params=at_the_end))
    while not running.app._limits.readers.long_polls.count:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    primary.kill()
    await standby.promote()
    proxy.target = f"tcp://127.0.0.1:{standby.port}"
    proxy.cut()
    assert (await poll).status_code == 410, "and not: nothing new"
    return Lived(http, running, standby, common, read.headers["stream-next-offset"], read.headers["etag"], live)


@asynccontextmanager
async def lived_through() -> AsyncIterator[Lived]:
    async with servers() as all_of_them:
        primary = await all_of_them.primary()
        await migrate(primary.url)
        async with (
            distant(primary.url) as (proxy, url),
            gateway(url, heartbeat=1, long_poll_timeout=60) as running,
            httpx.AsyncClient(base_url=running.url, timeout=60) as http,
        ):
            yield await lose(all_of_them, running, http, primary, proxy)


async def refused(lived: Lived, path: str) -> None:
    """Who comes with an offset of what was lost is told how far it went back, in every mode."""
    for params, headers in (
        ({}, {}),
        ({}, {"if-none-match": lived.etag}),
        ({"live": "long-poll"}, {}),
        ({"live": "sse"}, {}),
    ):
        response = await eventually(lived, "GET", path, params={"offset": lived.lost, **params}, headers=headers)
        assert (response.status_code, response.json()["error"]["type"]) == (410, "offset_gone"), params
        assert response.headers["stream-next-offset"] == lived.common
    resumed = await eventually(
        lived, "GET", path, params={"offset": "-1", "live": "sse"}, headers={"last-event-id": lived.lost}
    )
    assert resumed.status_code == 410
    fork = {"stream-forked-from": path, "stream-fork-offset": lived.lost}
    response = await eventually(lived, "PUT", "/v1/stream/fork", headers=fork)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_fork_offset")


async def eventually(lived: Lived, method: str, path: str, **options: Any) -> httpx.Response:
    """The answer once it is another one than "try again"."""
    async with asyncio.timeout(60):
        while True:
            response = await lived.http.request(method, path, **options)
            if response.status_code != 503:
                return response
            await asyncio.sleep(0.05)


async def test_what_was_lost_is_told_and_never_replaced_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    async with asyncio.timeout(PATIENCE), lived_through() as lived:
        old = numbers(1, COMMON, "before")
        # Before anything new is written, and whatever this Machine remembers.
        await refused(lived, "/runs/a")
        assert [event["made"] for event in await lived.live].count("lost") == LOST, "and then its response ended"
        head = await eventually(lived, "HEAD", "/runs/a")
        assert head.headers["stream-next-offset"] == lived.common
        everything = await lived.http.get("/runs/a", params={"offset": "-1"}, headers={"if-none-match": lived.etag})
        assert everything.status_code == 200 and everything.json() == json.loads(old)

        # A close that was lost is none; what comes in its place has offsets of its own.
        for path in ("/runs/a", "/runs/closed"):
            posted = await eventually(lived, "POST", path, headers=JSON, content=numbers(COMMON + 1, LOST + 5, "after"))
            assert posted.status_code == 204
        new = posted.headers["stream-next-offset"]
        assert new > lived.lost > lived.common, "offsets are compared bytewise"
        await refused(lived, "/runs/a")
        await refused(lived, "/runs/quiet")
        after = json.loads(numbers(COMMON + 1, LOST + 5, "after"))
        for offset, expected in (("-1", json.loads(old) + after), (lived.common, after), (new, [])):
            given: list[Any] = []
            position = offset
            while True:
                page = await lived.http.get("/runs/a", params={"offset": position})
                given += page.json()
                position = page.headers["stream-next-offset"]
                if page.headers.get("stream-up-to-date") == "true":
                    break
            assert given == expected and position == new
            got = asyncio.Event()
            if expected:
                reader = asyncio.create_task(follow(lived.http, "/runs/a", offset, got, len(expected)))
                await got.wait()
                assert (await lived.http.post("/runs/a", headers=JSON, content=b"[]")).status_code in (204, 400)
                reader.cancel()
        polled = await lived.http.get("/runs/a", params={"offset": lived.common, "live": "long-poll"})
        assert polled.json() == after

        # Whoever has the database appends by the same rules.
        token = await lived.server.fetchval("""SELECT run_gateway.append('runs/quiet', '{"n": 1}')""")
        assert token.split("_") == [new.split("_")[0], f"{COMMON + 1:016}"]
        await refused(lived, "/runs/quiet")

        # And the operator is told.
        database, log = lived.running.app._database, lived.running.app._log
        assert database.switches == 1 and log.reader.gone >= 10
        assert log.missing_events == LOST
        assert f"1 lack {LOST} events" in caplog.text


async def test_a_server_that_was_overtaken_is_left_within_a_heartbeat() -> None:
    """It is cut off from its standby, and still answers those who are connected to it."""
    async with asyncio.timeout(PATIENCE), servers() as all_of_them:
        primary = await all_of_them.primary()
        await migrate(primary.url)
        standby = await all_of_them.standby(primary)
        async with (
            distant(primary.url) as (proxy, url),
            gateway(url, heartbeat=1) as running,
            httpx.AsyncClient(base_url=running.url, timeout=60) as http,
        ):
            assert (await http.put("/runs/a", headers=JSON)).status_code == 201
            assert (await http.post("/runs/a", headers=JSON, content=b'{"n":1}')).status_code == 204
            await standby.has_all_of(primary)
            await standby.promote()
            proxy.target = f"tcp://127.0.0.1:{standby.port}"
            await until(standby, "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
            assert running.app._database.switches == 1
            assert (await http.post("/runs/a", headers=JSON, content=b'{"n":2}')).status_code == 204
            tail = "SELECT tail FROM run_gateway.streams WHERE path = 'runs/a'"
            assert (await primary.fetchval(tail), await standby.fetchval(tail)) == (1, 2)
