"""nginx as a shared cache, as the manual configures it: many readers of a public run cost a Machine as much as one."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.asgi import Receive, Scope, Send
from tests.http.answers import at
from tests.servers import PATIENCE, Running, serving, until
from tests.tools.nginx import cached, nginx

JSON = {"content-type": "application/json"}
READERS, EVENTS = 40, 5


class Counted:
    """What asks the gateway, by path and query."""

    def __init__(self, app: Any) -> None:
        self.asked = Counter[tuple[str, str]]()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "GET":
            self.asked[scope["path"], scope["query_string"].decode()] += 1
        await self._app(scope, receive, send)

    def waits(self, offset: str) -> bool:
        """True if a reader has waited there."""
        return any(f"offset={offset}" in query and "long-poll" in query for _, query in self.asked)


@pytest.fixture
def counted() -> list[Counted]:
    return []


@pytest.fixture(params=["none", "keys"])
def gateway(database_url: str, request: pytest.FixtureRequest, counted: list[Counted]) -> Iterator[Running]:
    def around(app: Any) -> Counted:
        counted.append(Counted(app))
        return counted[0]

    auth = {"auth": "keys", "keys": "own:read,write:" + "k" * 32} if request.param == "keys" else {}
    with serving(database_url, "direct", around=around, public_runs="live-*", **auth) as running:
        yield running


@asynccontextmanager
async def cache(folder: Path, gateway: Running) -> AsyncIterator[str]:
    """nginx before the gateway; its address."""
    server, outside = cached(gateway.url, folder)
    async with nginx(folder, server, outside) as url:
        yield url


OWN = {"authorization": "Bearer " + "k" * 32}


def owner_of(gateway: Running) -> httpx.AsyncClient:
    """A writer, with a connection for each request: the server here ends one that has waited for five seconds."""
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE, headers=OWN, limits=limits)


async def follow(http: httpx.AsyncClient, run: str, late: asyncio.Event | None = None) -> list[int]:
    """Reads a run as the protocol's clients do: catch-up, and then long-polls, until it is closed."""
    if late is not None:
        await late.wait()
    seen, offset, cursor, live = list[int](), "-1", None, False
    while True:
        query = {"offset": offset} | ({"live": "long-poll"} if live else {}) | ({"cursor": cursor} if cursor else {})
        answer = await http.get(f"/runs/{run}", params=query)
        assert answer.status_code in (200, 204), answer.text
        seen += answer.json() if answer.content else []
        offset = answer.headers["stream-next-offset"]
        cursor = answer.headers.get("stream-cursor")
        live = live or "stream-up-to-date" in answer.headers
        if "stream-closed" in answer.headers:
            return seen


async def test_all_readers_of_a_public_run_cost_as_much_as_one(
    gateway: Running, counted: list[Counted], tmp_path: Path
) -> None:
    limits = httpx.Limits(max_connections=None)
    async with (
        cache(tmp_path, gateway) as url,
        httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits) as http,
        owner_of(gateway) as owner,
    ):
        await owner.put("/runs/live-1", headers=JSON)
        late = asyncio.Event()
        readers = [asyncio.create_task(follow(http, "live-1", late if n % 2 else None)) for n in range(READERS)]
        for event in range(EVENTS):
            await until(partial(counted[0].waits, at(event)))
            await owner.post("/runs/live-1", headers=JSON, content=json.dumps([event]))
            late.set()
        await owner.post("/runs/live-1", headers={"stream-closed": "true"})
        assert await asyncio.gather(*readers) == [list(range(EVENTS))] * READERS
        waits = sum(n for (_, query), n in counted[0].asked.items() if "long-poll" in query)
        assert waits <= 3 * (EVENTS + 1), counted[0].asked
        assert sum(counted[0].asked.values()) < READERS, counted[0].asked


async def test_each_coding_of_a_page_is_kept_and_revalidated(
    gateway: Running, counted: list[Counted], tmp_path: Path
) -> None:
    """Whoever asks is given a coding that it takes, and the gateway is asked once for each."""
    page = json.dumps(["word " * 10] * 100)
    async with (
        cache(tmp_path, gateway) as url,
        httpx.AsyncClient(base_url=url, timeout=PATIENCE) as http,
        owner_of(gateway) as owner,
    ):
        await owner.put("/runs/live-1", headers=JSON | {"stream-closed": "true"}, content=page)
        tags = dict[str, str]()
        for accept in ("identity", "gzip") * 3:
            answer = await http.get("/runs/live-1", headers={"accept-encoding": accept})
            assert answer.json() == json.loads(page)
            assert answer.headers.get("content-encoding", "identity") == accept
            assert tags.setdefault(accept, answer.headers["etag"]) == answer.headers["etag"]
        assert len(set(tags.values())) == 2
        assert counted[0].asked == {("/runs/live-1", ""): 2}
        for accept, tag in tags.items():
            for held in tags.values():
                headers = {"accept-encoding": accept, "if-none-match": held}
                answer = await http.get("/runs/live-1", headers=headers)
                assert answer.status_code == (304 if held == tag else 200), (accept, held)
                assert answer.headers["etag"] == tag
        assert counted[0].asked == {("/runs/live-1", ""): 2}, "nginx has answered all others"


async def test_what_is_not_for_all_is_never_shared(gateway: Running, counted: list[Counted], tmp_path: Path) -> None:
    async with (
        cache(tmp_path, gateway) as url,
        httpx.AsyncClient(base_url=url, timeout=PATIENCE) as http,
        owner_of(gateway) as owner,
    ):
        for run in ("live-1", "mine"):
            await owner.put(f"/runs/{run}", headers=JSON | {"stream-closed": "true"}, content="[1]")
        made = await owner.post("/runs/live-1/token", headers=OWN) if gateway.app._auth.on else None
        token = made.json()["token"] if made else "whatever"
        asked: list[tuple[str, dict[str, str]]] = [
            ("/runs/live-1", OWN),
            (f"/runs/live-1?token={token}", {}),
            (f"/runs/live-1?offset=-1&live=long-poll&token={token}", {}),
            ("/runs/mine", OWN),
            ("/runs/mine?offset=-1&live=long-poll", OWN),
        ]
        for target, headers in asked:
            for _ in range(2):
                answer = await http.get(target, headers=headers)
                assert (answer.status_code, answer.json()) == (200, [1])
                assert answer.headers["cache-control"].startswith("private"), target
        assert list(counted[0].asked.values()) == [2] * len(asked), "each request has come through"
        for _ in range(3):
            shared = await http.get("/runs/live-1")
            assert shared.headers["cache-control"].startswith("public")
        public = [n for (path, query), n in counted[0].asked.items() if path == "/runs/live-1" and not query]
        assert public == [2 + 1], "the third is asked for once"
        stream = await http.get("/runs/live-1?offset=-1&live=sse")
        assert "no-cache" in stream.headers["cache-control"]
        if gateway.app._auth.on:
            for closed in ("/runs/mine", "/runs/live-1?meta", "/runs/live-1/control", "/runs", "/runs/x-live-1"):
                assert (await http.get(closed)).status_code == 401, closed
            assert (await http.post("/runs/live-1", content="[2]", headers=JSON)).status_code == 401
            assert (await http.delete("/runs/live-1")).status_code == 401
