"""What one commit makes much work of: each reader has a turn of the loop for it, and each tenant a turn to append."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import httpx
import orjson
import pytest

from gateway.log.queue import MOST_REQUESTS, MOST_SHARED
from gateway.log.writer import Writer
from gateway.protocol import many
from gateway.runs import live_list, live_list_answer, queries
from gateway.runs.live_list import LITTLE
from gateway.runs.store import PAGE
from tests.servers import PATIENCE, Running, serving, until

JSON = {"content-type": "application/json"}
LINES = {"content-type": "application/x-ndjson"}
KEYS = " ".join(f"{name}:read,write:{name[0] * 40}" for name in ("ada@acme", "bob@globex"))
ADA, BOB = ({"authorization": "Bearer " + letter * 40} for letter in "ab")
READERS, STREAMS = 20, 100
LARGE = {f"{n:0256}": "v" * 1024 for n in range(32)}  # as much metadata as a run may have: 41 kB


class InATurn:
    """How much is done between two turns of a loop: `most` so far. Of the thread alone in which it is called first."""

    def __init__(self) -> None:
        self.all = self.most = self._now = 0

    def note(self, much: int = 1) -> None:
        if not self._now:
            asyncio.get_running_loop().call_soon(self._over)
        self.all += much
        self._now += much
        self.most = max(self.most, self._now)

    def _over(self) -> None:
        self._now = 0


def lines(*appends: tuple[str, bytes, bool]) -> bytes:
    """The body of `POST /v1/appends`: streams, their events, and whether each is closed."""
    return b"".join(
        orjson.dumps({"stream": name, "streamClosed": close}) + b"\n%b\n" % it for name, it, close in appends
    )


@asynccontextmanager
async def reading(gateway: Running, target: str, count: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    """So many readers of this, each of which has had its first frame."""
    async with AsyncExitStack() as stack:
        readers = []
        async with asyncio.timeout(PATIENCE):
            for _ in range(count):  # one after the other: of lists that are asked for at once a tenant has a few
                reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1 << 26)
                stack.callback(writer.close)
                writer.write(f"GET {target} HTTP/1.1\r\nhost: h\r\n\r\n".encode())
                assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
                await reader.readuntil(b"\n\n")
                readers.append(reader)
        yield readers


async def test_a_commit_to_many_streams_is_told_reader_by_reader(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, parts = InATurn(), many.parts

    def noted(*arguments: Any) -> list[many.Line]:
        done.note()
        return parts(*arguments)

    names = [f"runs/r{n}" for n in range(STREAMS)]
    query = "&".join(["live=sse", "offset=now", *(f"stream={name}" for name in names)])
    with serving(database_url, "direct") as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE, headers=JSON) as http:
            for name in names:
                assert (await http.put(f"/{name}")).status_code == 201
            async with reading(gateway, f"/v1/stream?{query}", READERS) as readers:
                await until(lambda: all(len(tail.waiting) == READERS for tail in gateway.app._hub.tails.values()))
                monkeypatch.setattr(many, "parts", noted)
                answer = await http.post(
                    "/v1/appends", headers=LINES, content=lines(*((n, b"1", False) for n in names))
                )
                assert answer.text.count('"status":204') == STREAMS
                await until(lambda: done.all >= READERS * STREAMS)
                assert len(readers) == READERS
    assert done.most <= STREAMS, "and not those of all readers"


async def test_a_lists_changes_are_judged_and_told_in_pieces(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged, told = InATurn(), InATurn()
    shows, change = queries.shows, live_list_answer._change

    def noted(request: Any, kind: Any, record: Any) -> bool:
        judged.note(len(record.metadata))
        return shows(request, kind, record)

    def telling(each: Any) -> bytes:
        told.note(len(each.record.metadata))
        return change(each)

    count, name = 20, next(iter(LARGE))
    size = len(orjson.dumps(LARGE))
    with serving(database_url, "direct") as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE, headers=JSON) as http:
            for n in range(count):
                assert (await http.post("/runs", json={"id": f"r{n}", "metadata": LARGE})).status_code == 201
            query = urlencode({"live": "sse", "limit": 1, f"metadata.{name}": LARGE[name]})
            async with reading(gateway, f"/runs?{query}", READERS):
                monkeypatch.setattr(live_list, "shows", noted)
                monkeypatch.setattr(live_list_answer, "_change", telling)
                ends = lines(*((f"runs/r{n}", b"1", True) for n in range(count)))
                answer = await http.post("/v1/appends", headers=LINES, content=ends)
                assert answer.text.count('"streamClosed":true') == count
                await until(lambda: told.all >= READERS * count * size)
    assert judged.most <= 2 * LITTLE + 2 * size
    assert told.most <= live_list_answer.LARGE + size


async def test_a_page_of_a_list_has_a_size_whatever_its_limit(database_url: str) -> None:
    """Of each page there is one for each who asks, who may take long to read it."""
    count = PAGE // len(orjson.dumps(LARGE)) + 10
    with serving(database_url, "direct") as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE, headers=JSON) as http:
            for n in range(count):
                assert (await http.post("/runs", json={"id": f"r{n}", "metadata": LARGE})).status_code == 201
            found: list[str] = []
            query = "limit=500"
            while query:
                answer = await http.get(f"/runs?{query}")
                assert len(answer.content) < PAGE + 200 * count
                found += [run["runId"] for run in answer.json()["runs"]]
                query = "&".join(f"limit=500&cursor={each}" for each in [answer.json().get("nextCursor")] if each)
            assert found == [f"r{n}" for n in reversed(range(count))]
            async with http.stream("GET", "/runs?live=sse&limit=500") as live:
                async for line in live.aiter_lines():
                    if "nextCursor" in line:
                        break


@pytest.mark.parametrize("requests", [1, 4])
async def test_appends_go_round_by_tenant(database_url: str, monkeypatch: pytest.MonkeyPatch, requests: int) -> None:
    """Whoever appends to thousands of streams waits for themselves: another tenant's append is in the next batch."""
    batches: list[tuple[int, bool]] = []
    held = True
    ask = Writer._ask

    async def noted(writer: Writer, entries: Any, *rest: Any) -> Any:
        batches.append((len(entries), any(path.startswith("globex") for path in entries)))
        while held:  # noqa: ASYNC110  the database is busy
            await asyncio.sleep(0.005)
        return await ask(writer, entries, *rest)

    many = 4 * MOST_REQUESTS
    with serving(database_url, "direct", auth="keys", keys=KEYS, append_timeout=60) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE, headers=JSON) as http:
            assert (await http.put("/runs/r", headers=BOB)).status_code == 201
            monkeypatch.setattr(Writer, "_ask", noted)
            queue = gateway.app._log.writer._queue
            asked = [
                asyncio.create_task(
                    http.post(
                        "/v1/appends",
                        headers=LINES | ADA,
                        content=lines(*((f"s/{n}", b"1", False) for n in range(part, many, requests))),
                    )
                )
                for part in range(requests)
            ]
            await until(lambda: len(queue._lines) == many)
            before = len(batches)
            bob = asyncio.create_task(http.post("/runs/r", headers=BOB, content=b"1"))
            await until(lambda: len(queue._lines) == many + 1)
            held = False
            assert (await bob).status_code == 204
            await asyncio.gather(*asked)
    (place,) = [place for place, (_, his) in enumerate(batches) if his]
    assert place == before, "the next that was sent"
    assert batches[place][0] <= MOST_SHARED
