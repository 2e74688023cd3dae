"""More than a Machine can take: newcomers are told, those who are there stay, and nothing grows without a bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import pytest

from gateway.log.database import Database
from gateway.log.reader import Reader
from gateway.protocol.errors import StreamNotFound, TooManyReads
from tests.faults.crowd import Stream, follow
from tests.faults.scene import PATH, gateway
from tests.log.rig import holding

PATIENCE = 240
JSON = {"content-type": "application/json"}


async def test_readers_over_the_limit_are_refused_and_none_is_evicted(database_url: str) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        gateway(database_url, max_readers=20) as running,
        httpx.AsyncClient(base_url=running.url) as http,
    ):
        await http.put(PATH, headers=JSON)
        crowd = await follow(running.url + PATH, 20)
        waits: set[str] = set()
        for number in range(30):
            live = "sse" if number % 2 else "long-poll"
            refused = await http.get(PATH, params={"offset": "-1", "live": live})
            assert (refused.status_code, refused.json()["error"]["type"]) == (503, "too_many_readers")
            waits.add(refused.headers["retry-after"])
        assert len(waits) > 1, "not all of them come back at once"
        assert (await http.get("/health")).status_code == 200
        assert (await http.post(PATH, headers=JSON, content=b'{"n":1}')).status_code == 204
        assert (await http.get(PATH)).json() == [{"n": 1}], "who reads and goes takes nobody's place"
        await asyncio.gather(*(stream.until(b'{"n":1}') for stream in crowd))
        crowd.pop().writer.close()
        while True:
            newcomer = await Stream.open(f"{running.url}{PATH}?offset=-1&live=sse")
            await newcomer.until(b"\r\n\r\n")
            if newcomer.status == 200:
                break
            newcomer.writer.close()
        crowd.append(newcomer)
        assert (await http.post(PATH, headers=JSON | {"stream-closed": "true"}, content=b'{"n":2}')).status_code == 204
        await asyncio.gather(*(stream.until(b'"streamClosed":true') for stream in crowd))
        for stream in crowd:
            stream.writer.close()


async def test_a_writer_faster_than_the_database_is_refused_honestly(database_url: str) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        gateway(database_url, max_pending=20_000, append_timeout=20) as running,
        httpx.AsyncClient(base_url=running.url, timeout=30) as http,
    ):
        await http.put(PATH, headers=JSON)
        async with holding(database_url, PATH.removeprefix("/")):
            posts = {
                number: asyncio.create_task(http.post(PATH, headers=JSON, json=[number, "x" * 1_000]))
                for number in range(60)
            }
            done: set[Any] = set()
            while len(done) < 30:
                done, _ = await asyncio.wait(posts.values(), return_when=asyncio.FIRST_COMPLETED)
                done = {task for task in posts.values() if task.done()}
            assert {task.result().status_code for task in done} == {429}
            assert all(1 <= int(task.result().headers["retry-after"]) <= 3 for task in done)
        answers = {number: await task for number, task in posts.items()}
        kept = {number for number, answer in answers.items() if answer.status_code == 204}
        assert kept
        assert {number for number, answer in answers.items() if answer.status_code == 429} == set(posts) - kept
        found = (await http.get(PATH)).json()
        assert sorted(found[::2]) == sorted(kept)


class SlowDatabase:
    """Counts who is inside at once; each stays until all are let go."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.go = asyncio.Event()

    @asynccontextmanager
    async def acquire(self, _tenant: str) -> AsyncIterator[SlowDatabase]:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            yield self
        finally:
            self.inside -= 1

    async def fetch(self, *_: object) -> list[object]:
        await self.go.wait()
        return []


async def test_a_stampede_of_catch_up_reads_waits_its_turn() -> None:
    database = SlowDatabase()
    reader = Reader(cast("Database", database), page_bytes=1000, most=3, patience=0.2)
    reads = [asyncio.create_task(reader.read("s", position)) for position in range(50)]
    await asyncio.wait(reads[3:])  # those who wait for their turn
    for read in reads[3:]:
        with pytest.raises(TooManyReads):
            await read
    database.go.set()
    reader._patience = 60
    later = [asyncio.create_task(reader.read("s", position)) for position in range(50)]
    for read in reads[:3] + later:
        with pytest.raises(StreamNotFound):
            await read
    assert database.most == 3
