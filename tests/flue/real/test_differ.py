"""Flue and the gateway are asked the same, of runs in every state; no answer differs but by what is listed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import product
from typing import Final

import httpx
import pytest
import pytest_asyncio

from gateway.flue import schema
from tests.databases import Postgres
from tests.flue.app import App, event
from tests.flue.real.differ import BEYOND, Request, ask, compare
from tests.flue.real.rig import built
from tests.machines import Machine
from tests.tools.flue_server import FlueServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

AT_ONCE: Final = 32  # requests under way; those that wait do so together
CLOCK_RATE: Final = 20  # of Flue, whose long-poll otherwise takes 30 s
SETTINGS: Final = {"GATEWAY_FLUE": "on", "GATEWAY_FLUE_WORKFLOWS": "*", "GATEWAY_LONG_POLL_TIMEOUT": "1"}


def offset(last: int) -> str:
    return f"{0:016d}_{last:016d}"


READS: Final = [
    "",
    "?",
    "?offset=-1",
    "?offset=now",
    "?offset=",
    "?offset=0",
    "?offset=-2",
    "?offset=abc",
    "?offset=NOW",
    "?offset=0_0",
    "?offset=1_1",
    "?offset=7_0002",
    "?offset=-1_0",
    "?offset=0_0%0A",
    f"?{BEYOND}",
    f"?offset={offset(0)}",
    f"?offset={offset(2)}",
    f"?offset={offset(99)}",
    f"?offset={offset(1000)}",
    "?offset=-1&offset=-1",
    "?offset=-1&offset=",
    "?tail=1",
    "?tail=2",
    "?tail=100000",
    "?tail=99999999999999999999999",
    "?tail=0",
    "?tail=-1",
    "?tail=01",
    "?tail=1.5",
    "?tail=",
    "?tail=x",
    "?tail=1&tail=1",
    "?offset=-1&tail=2",
    "?offset=now&tail=2",
    f"?offset={offset(0)}&tail=1",
    "?cursor=5",
    "?cursor=x&offset=-1",
    "?live=sse",
    "?live=long-poll",
    "?live=",
    "?live=yes",
    "?live=SSE&offset=-1",
    "?live=true&offset=-1",
    "?live=sse&live=long-poll&offset=-1",
    "?offset=-1&live=sse",
    "?offset=now&live=sse",
    f"?offset={offset(0)}&live=sse",
    "?offset=-1&tail=2&live=sse",
    "?offset=now&tail=2&live=sse",
    f"?offset={offset(1000)}&live=sse",
    "?offset=abc&live=sse",
    "?tail=0&live=sse",
    "?offset=-1&live=long-poll",
    "?offset=-1&live=long-poll&cursor=5",
    "?offset=-1&live=long-poll&cursor=99999999999",
    "?offset=now&live=long-poll",
    f"?offset={offset(0)}&live=long-poll",
    f"?offset={offset(2)}&live=long-poll",
    f"?offset={offset(1000)}&live=long-poll",
    "?offset=-1&tail=2&live=long-poll",
    "?meta",
    "?meta=",
    "?meta=false",
    "?meta&offset=abc",
    "?meta&live=x&tail=0",
    "?other=1&Offset=abc&TAIL=0",
    "?offset=%2D1",
    "?offset=-1&x=%zz",
    "?off%73et=-1",
]
OTHERS: Final = [
    Request("HEAD", ""),
    Request("HEAD", "?offset=abc&tail=0&live=x"),
    Request("HEAD", "?meta"),
    Request("POST", "", ("Content-Type: application/json",), b"{}"),
    Request("OPTIONS", "", ("Origin: https://example.com", "Access-Control-Request-Method: GET")),
    Request("PATCH", "", ("Content-Type: application/json",), b"{}"),
    Request("DELETE", ""),
    Request("GET", "", ("If-None-Match: *",)),
    Request("GET", "", ('If-None-Match: "no", "neither"',)),
    Request("GET", "?offset=-1&live=sse", ("If-None-Match: *",)),
    Request("GET", "", ("Accept: text/html", "Accept-Encoding: gzip, br", "Range: bytes=0-1")),
    Request("GET", "", ("Origin: https://example.com",)),
]
EVENTS: Final = {"open": 3, "closed": 5, "long": 250, "empty": 0, "ended-without-events": 0}
RUNS: Final = (*EVENTS, "failed", "unborn", "%C3%A9%20x", "unknown")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["polling", "triggers"])
async def urls(request: pytest.FixtureRequest, postgres: Postgres) -> AsyncIterator[tuple[str, str]]:
    """A Flue server and a gateway, over the rows of runs in every state; news comes one way or the other."""
    folder = built()
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(postgres.database())
        flue = await stack.enter_async_context(FlueServer.start(folder, database, CLOCK_RATE))
        app = await stack.enter_async_context(App.start(database))
        for run, count in EVENTS.items():
            await app.begin(run)
            for i in range(count):
                await app.append(run, event(run, i, text='é\u2028 \\ "quoted" <tag> \U0001f3c3'))
        for run in ("closed", "long", "ended-without-events"):
            await _end(app, run)
        await app.begin("failed")
        await app.append("failed", event("failed", 0))
        await _end(app, "failed", isError=True, status="errored", error={"name": "Error", "message": "é\n"})
        await app.admit({"runId": "unborn", "workflowName": "ticker", "startedAt": "2026-11-23T01:49:29.448Z"})
        await app.begin("é x")
        if request.param == "triggers":
            await schema.attach(app.connection)
        gateway = await stack.enter_async_context(Machine.start(database, env=SETTINGS))
        yield flue.url, gateway.url


async def _end(app: App, run: str, **more: object) -> None:
    await app.close(run)
    record = {
        "runId": run, "status": "completed", "endedAt": "2026-11-23T01:50:00.000Z", "isError": False, "durationMs": 9,
        "result": {"b": [1, 1.5, None], "a": "é"},
    }  # fmt: skip
    await app.end(record | more)


async def differences(urls: tuple[str, str], requests: list[Request]) -> list[str]:
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(request: Request) -> str | None:
        async with limit:
            flues, ours = await asyncio.gather(*(ask(url, request) for url in urls))
        return compare(request, flues, ours)

    return [found for found in await asyncio.gather(*map(one, requests)) if found]


async def test_no_answer_differs_but_by_what_is_listed(urls: tuple[str, str]) -> None:
    requests = [Request("GET", f"/runs/{run}{query}") for run, query in product(RUNS, READS)]
    requests += [
        Request(other.method, f"/runs/{run}{other.target}", other.headers, other.body)
        for run, other in product(RUNS, OTHERS)
    ]
    assert len(requests) > 700
    # On its own, for it makes a run where there is none.
    requests += [Request("PUT", f"/runs/{run}", ("Content-Type: application/json",)) for run in (*RUNS[:-1], "mine")]
    found = await differences(urls, requests)
    assert not found, f"{len(found)} of {len(requests)} differ:\n\n" + "\n\n".join(found)


async def test_what_one_has_given_the_other_takes_up(urls: tuple[str, str]) -> None:
    """ETags and offsets, each from one to the other."""
    for giver, taker in (urls, urls[::-1]):
        for run in ("open", "closed", "long", "empty"):
            first = await ask(giver, Request("GET", f"/runs/{run}?offset=-1"))
            unchanged = Request("GET", f"/runs/{run}?offset=-1", (f"If-None-Match: {first.headers['etag']}",))
            assert (await ask(taker, unchanged)).status == 304
            seen = json.loads(first.body)
            at = first.headers
            while "stream-up-to-date" not in at:
                page = await ask(taker, Request("GET", f"/runs/{run}?offset={at['stream-next-offset']}"))
                seen, at = seen + json.loads(page.body), page.headers
            assert [each["eventIndex"] for each in seen] == list(
                range({"open": 3, "closed": 5, "long": 250}.get(run, 0))
            )


async def test_those_who_wait_are_given_the_same_when_it_comes(urls: tuple[str, str]) -> None:
    flue, gateway = urls
    async with httpx.AsyncClient(base_url=flue, trust_env=False) as http:
        answer = await http.post("/workflows/ticker", json={"n": 3, "intervalMs": 1000 * CLOCK_RATE})
    run = answer.json()["runId"]
    at, closed, compared = "now", False, 0
    while not closed:
        request = Request("GET", f"/runs/{run}?offset={at}&live=long-poll")
        flues, ours = await asyncio.gather(ask(flue, request), ask(gateway, request))
        seen = [(each.headers["stream-next-offset"], "stream-closed" in each.headers) for each in (flues, ours)]
        if flues.status == 200 and seen[0] == seen[1]:
            assert compare(request, flues, ours) is None
            compared += 1
        elif flues.status == 200 and at != "now":  # which may be before an event for one, and behind it for the other
            shorter, longer = sorted((flues.body[:-1], ours.body[:-1]), key=len)
            assert longer.startswith(shorter), "one may have seen more than the other, and nothing else"
        at, closed = flues.headers["stream-next-offset"], "stream-closed" in flues.headers
    assert compared >= 2
