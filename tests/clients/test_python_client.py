"""The PyPI client durable-streams 0.1.0 reads, follows and resumes runs, also when its Machine is killed.

It is young, and the app around it (`Reader` below) has to make up for what it lacks:
- It does not know closed streams. Its long-poll asks a closed run again for ever (each answer is a 204 at once),
  and its SSE drops `streamClosed`: the app watches the response headers, and asks with HEAD where SSE has none.
- SSE never reconnects: when the connection ends, for whatever reason, the iteration ends, and the app resumes.
- No request is retried: the app catches httpx's errors and resumes at the last offset that it was given.
- `live="sse"` or "long-poll" without an offset sends none, which the protocol forbids: the app passes "-1".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
import pytest
from durable_streams import DurableStreamError, astream, stream

from tests.clients.conftest import StartTwo, Two

pytestmark = pytest.mark.asyncio(loop_scope="session")  # as the Machines that these tests share
Live = Literal["auto", "long-poll", "sse"]
LIVE: list[Live] = ["auto", "long-poll", "sse"]


class Finished(Exception):
    """The run is closed and everything of it has been read."""


@dataclass
class Reader:
    """An app that follows one run to its end; `items` is what it was given so far."""

    url: str
    live: Live
    http: httpx.AsyncClient
    offset: str = "-1"
    items: list[Any] = field(default_factory=list)
    interruptions: list[Exception] = field(default_factory=list)
    sessions: int = 0
    _grown: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        self.http.event_hooks = {"response": [self._stop_at_the_end]}

    async def follow(self) -> list[Any]:
        while True:
            try:
                await self._session()
                await self._ask_whether_it_is_over()
            except Finished:
                return self.items
            except httpx.TransportError as error:
                self.interruptions.append(error)

    async def until(self, count: int) -> None:
        """Waits until so many items have been given."""
        async with asyncio.timeout(60), self._grown:
            await self._grown.wait_for(lambda: len(self.items) >= count)

    async def opened(self, count: int) -> None:
        """Waits until so many sessions have begun: one for each connection in SSE."""
        async with asyncio.timeout(60), self._grown:
            await self._grown.wait_for(lambda: self.sessions >= count)

    async def _session(self) -> None:
        async with astream(self.url, offset=self.offset, live=self.live, client=self.http) as response:
            async with self._grown:
                self.sessions += 1
                self._grown.notify_all()
            async for event in response.iter_events(mode="json"):
                self.offset = event.next_offset
                async with self._grown:
                    self.items += event.data
                    self._grown.notify_all()

    async def _ask_whether_it_is_over(self) -> None:
        answer = await self.http.head(self.url)
        answer.raise_for_status()
        over = answer.headers.get("stream-closed") == "true"
        if over and answer.headers["stream-next-offset"] == self.offset:
            raise Finished

    async def _stop_at_the_end(self, response: httpx.Response) -> None:
        """A 204 that says closed is the end; the client itself would ask again."""
        if response.status_code == 204 and response.headers.get("stream-closed") == "true":
            raise Finished


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        yield client


async def test_the_synchronous_client_reads_a_run_from_its_start(two: Two) -> None:
    run = two.run
    await run.append({"n": 0}, "text", ["a", ["nested"], None], 1.5, {"ünïcode": "\r\n\u2028 🏃"})
    await run.count(range(1, 20))

    def read() -> tuple[list[Any], str]:
        with httpx.Client(trust_env=False) as client, stream(two.url, live=False, client=client) as response:
            return response.read_json(), response.offset

    assert await asyncio.to_thread(read) == (run.log, run.end)


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
async def test_a_run_is_read_from_its_start_and_from_a_saved_offset(
    closed: bool, two: Two, http: httpx.AsyncClient
) -> None:
    run = two.run
    await run.count(range(10))
    async with astream(two.url, live=False, client=http) as response:
        assert await response.read_json() == run.log
        saved = response.offset
    assert saved == run.end
    await run.count(range(10, 20))
    if closed:
        await run.close()
    async with astream(two.url, offset=saved, live=False, client=http) as response:
        assert await response.read_json() == run.log[10:]
        assert response.up_to_date


async def test_a_run_that_does_not_exist_is_an_error(two: Two, http: httpx.AsyncClient) -> None:
    with pytest.raises(DurableStreamError) as refusal:
        async with astream(two.url + "-nonexistent", live=False, client=http):
            pass
    assert refusal.value.status == 404


@pytest.mark.parametrize("live", LIVE)
@pytest.mark.parametrize("last", [(), ({"last": True},)], ids=["closed-alone", "closed-with-an-event"])
async def test_a_live_run_is_followed_to_its_end(
    live: Live, last: tuple[Any, ...], two: Two, http: httpx.AsyncClient
) -> None:
    run = two.run
    await run.append("before")
    reader = Reader(two.url, live, http)
    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        following = tasks.create_task(reader.follow())
        await reader.until(1)
        for number in range(10):
            await run.append({"n": number}, {"m": number})
            await reader.until(len(run.log))
        await run.close(*last)
    assert following.result() == run.log
    assert reader.interruptions == []
    assert reader.offset == run.end


@pytest.mark.parametrize("live", LIVE)
async def test_a_reader_resumes_at_another_machine_after_a_kill(live: Live, two: Two, http: httpx.AsyncClient) -> None:
    run = two.run
    await run.count(range(10))
    reader = Reader(two.url, live, http)
    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        following = tasks.create_task(reader.follow())
        await reader.until(10)
        await run.count(range(10, 30))
        await reader.until(11)
        await two.lose_a()
        await run.count(range(30, 50))
        await run.close({"last": True})
    assert following.result() == run.log
    assert reader.offset == run.end


async def test_sse_connections_at_their_maximum_age_end_cleanly(start_two: StartTwo, http: httpx.AsyncClient) -> None:
    two = await start_two(GATEWAY_SSE_MAX_AGE="1")
    run = two.run
    reader = Reader(two.url, "sse", http)
    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        following = tasks.create_task(reader.follow())
        for connection in range(1, 4):
            await reader.opened(connection)
            await run.append({"n": connection})
            await reader.until(len(run.log))
        await run.close()
    assert following.result() == run.log
    assert reader.interruptions == []
