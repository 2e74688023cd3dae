"""Every limit: who has reached it is told so and when to come back, nobody else is, and nothing is changed."""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast
from uuid import uuid4

import httpx
import pytest

from gateway.http.door import MOST_FIELDS
from gateway.log.database import Database
from gateway.quotas import MOST, Rate, Share
from gateway.relay import patterns
from gateway.runs.quota import MOST as MOST_TENANTS
from gateway.runs.quota import RunQuota
from gateway.settings import load
from tests.servers import PATIENCE, Client, client_of, following, serving, until

JSON = {"content-type": "application/json"}
KEYS = " ".join(f"{name}:read,write:{name[-1] * 40}" for name in ("ada", "bob"))
ADA, BOB = ({"authorization": "Bearer " + letter * 40} for letter in "ab")


@pytest.fixture
def run() -> str:
    return f"/runs/{uuid4().hex}"


@asynccontextmanager
async def limited(database_url: str, **settings: Any) -> AsyncIterator[Client]:
    with serving(database_url, "direct", **settings) as gateway:
        async with client_of(gateway) as client:
            yield client


def is_refused(answer: httpx.Response, status: int, type: str) -> bool:
    if status == 429:
        assert 1 <= int(answer.headers["retry-after"]) <= 3
    refused: str = answer.json()["error"]["type"]
    return (answer.status_code, refused) == (status, type)


async def test_appends_a_second_are_each_credentials_own(database_url: str, run: str) -> None:
    async with limited(database_url, auth="keys", keys=KEYS, max_appends_per_token=3) as client:
        await client("PUT", run, headers=JSON | ADA)
        answers = [await client("POST", run, headers=JSON | ADA, content="1") for _ in range(20)]
        taken = sum(answer.status_code == 204 for answer in answers)
        assert 3 <= taken < 20
        assert all(answer.status_code == 204 or is_refused(answer, 429, "too_many_appends") for answer in answers)
        assert (await client("POST", run, headers=JSON | BOB, content="1")).status_code == 204
        assert len((await client("GET", run, headers=ADA)).json()) == taken + 1, "what was refused is not there"
        for _ in range(10):
            assert (await client("POST", run + "/heartbeat", headers=ADA)).status_code == 204, "it would end the run"
        assert (await client("GET", run, headers=ADA)).status_code == 200, "reads are not appends"


@pytest.mark.parametrize("by", ["PUT", "POST"])
async def test_streams_a_second_are_each_credentials_own(database_url: str, run: str, by: str) -> None:
    async def make(number: int, who: dict[str, str]) -> httpx.Response:
        if by == "PUT":
            return await client("PUT", f"{run}-{number}", headers=JSON | who)
        return await client("POST", "/runs", headers=JSON | who, json={"id": f"{run[6:]}-{number}"})

    async with limited(database_url, auth="keys", keys=KEYS, max_creates_per_token=2) as client:
        answers = [await make(number, ADA) for number in range(15)]
        assert 2 <= sum(answer.status_code == 201 for answer in answers) < 15
        assert all(answer.status_code == 201 or is_refused(answer, 429, "too_many_creates") for answer in answers)
        assert (await make(99, BOB)).status_code == 201


async def test_open_streams_are_counted_by_credential_and_given_back(database_url: str, run: str) -> None:
    async with (
        limited(database_url, auth="keys", keys=KEYS, max_streams_per_token=2) as client,
        AsyncExitStack() as open,
    ):
        await client("PUT", run, headers=JSON | ADA)
        live = run + "?offset=-1&live=sse"
        follows = [await open.enter_async_context(following(client, live, **who)) for who in (ADA, ADA, BOB)]
        for follow in follows:
            await follow.until(lambda reading: len(reading.events) > 0)
        assert is_refused(await client("GET", live, headers=ADA), 429, "too_many_streams")
        assert is_refused(await client("GET", f"{run}?offset=-1&live=long-poll", headers=ADA), 429, "too_many_streams")
        assert (await client("GET", run, headers=ADA)).status_code == 200, "what does not stay open is not counted"
        await open.aclose()
        await client("POST", run, headers=JSON | ADA | {"stream-closed": "true"})
        async with asyncio.timeout(PATIENCE):
            while (await client("GET", live, headers=ADA)).status_code == 429:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_requests_are_counted_by_the_trusted_proxys_address(database_url: str, run: str) -> None:
    async with limited(database_url, max_requests_per_address=1) as client, AsyncExitStack() as open:
        await client("PUT", run, headers=JSON)
        live = run + "?offset=-1&live=sse"
        first = {"x-forwarded-for": "192.0.2.1"}
        follow = await open.enter_async_context(following(client, live, **first))
        await follow.until(lambda reading: len(reading.events) > 0)
        for path in (live, run, "/health"):
            assert is_refused(await client("GET", path, headers=first), 429, "too_many_requests"), path
        assert is_refused(await client("POST", run, headers=JSON | first, content="1"), 429, "too_many_requests")
        assert (await client("POST", run, headers=JSON, content="1")).status_code == 204
        assert (await client("GET", run, headers={"x-forwarded-for": "192.0.2.2"})).status_code == 200
        assert (await client("GET", run)).status_code == 200


async def test_requests_to_the_application_count_for_their_address(database_url: str) -> None:
    asked, let = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await let.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as application, asyncio.timeout(PATIENCE):
        upstream = f"http://127.0.0.1:{application.sockets[0].getsockname()[1]}"
        async with limited(database_url, max_requests_per_address=1, upstream=upstream) as client:
            first = {"x-forwarded-for": "192.0.2.1"}
            held = asyncio.create_task(client("GET", "/of-the-application", headers=first))
            await asked.wait()
            for path in ("/of-the-application", "/health"):
                assert is_refused(await client("GET", path, headers=first), 429, "too_many_requests"), path
            assert (await client("GET", "/health")).status_code == 200
            let.set()
            assert (await held).content == b"ok"
            while (again := await client("GET", "/of-the-application", headers=first)).status_code == 429:
                pass  # its place is free once the upstream's connection has been let go of
            assert again.content == b"ok"


async def test_a_long_query_behind_the_gateway_is_passed_on_as_it_is(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of the relay takes no query apart for long: of 15,000 fields that took 20 ms, of a request by anybody."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n")).split(b" ")[1])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        writer.close()

    def taken_apart(query: str, **how: Any) -> list[tuple[str, str]]:
        fields.append(query.count("&"))
        return urllib.parse.parse_qsl(query, **how)

    asked, fields = list[bytes](), list[int]()
    monkeypatch.setattr(patterns, "parse_qsl", taken_apart)
    async with await asyncio.start_server(answer, "127.0.0.1") as application, asyncio.timeout(PATIENCE):
        upstream = f"http://127.0.0.1:{application.sockets[0].getsockname()[1]}"
        async with limited(database_url, upstream=upstream, relay="ai-sdk:/api/chat", owned="/owned/{id}") as client:
            for method, path in (
                ("POST", "/api/chat"),
                ("POST", "/owned/a"),
                ("GET", "/any"),
                ("GET", "/api/chat/a/x"),
            ):
                target = f"{path}?a=b{'&a' * 14_000}"
                assert (await client(method, target)).content == b"ok"
                assert asked[-1] == target.encode()
            assert (await client("GET", f"/api/chat/a/stream?a=b{'&a' * 14_000}")).status_code == 204
    assert max(fields, default=0) < MOST_FIELDS


async def test_a_query_has_so_many_fields_on_every_way(database_url: str, run: str) -> None:
    async with limited(database_url) as client:
        await client("PUT", run, headers=JSON)
        for method, target in (
            ("GET", run),
            ("GET", run + "?meta"),
            ("POST", run),
            ("GET", "/health"),
            ("GET", "/runs"),
        ):
            first = target + ("&" if "?" in target else "?")
            fields = "&".join(["x"] * (MOST_FIELDS + 1 - target.count("?")))
            answer = await client(method, first + fields, headers=JSON, content="1")
            assert is_refused(answer, 400, "invalid_request"), (method, target)
            assert answer.json()["error"]["details"] == f"A query has at most {MOST_FIELDS} fields."
        assert (await client("GET", run)).json() == [], "what was refused is not there"
        assert (await client("GET", "/health?" + "&".join(["x"] * MOST_FIELDS))).status_code == 200


async def test_a_batch_and_an_event_have_a_size(database_url: str, run: str) -> None:
    async with limited(database_url, max_batch=3, max_event=10) as client:
        for method in ("PUT", "POST"):
            assert is_refused(await client(method, run, headers=JSON, content="[1,2,3,4]"), 413, "batch_too_large")
            assert is_refused(await client(method, run, headers=JSON, content='["123456789"]'), 413, "event_too_large")
            assert (await client(method, run, headers=JSON, content='[1,2,"12345678"]')).is_success
        assert len((await client("GET", run)).json()) == 6
        fork = {"Stream-Forked-From": run}  # of its source's type, which the request does not say
        assert is_refused(await client("PUT", f"{run}-f", headers=fork, content="[1,2,3,4]"), 413, "batch_too_large")


async def test_no_request_holds_more_events_than_a_moment_parses(database_url: str, run: str) -> None:
    most = load().max_batch
    async with limited(database_url) as client:
        await client("PUT", run, headers=JSON)
        many = "[" + "1," * most + "1]"
        assert is_refused(await client("POST", run, headers=JSON, content=many), 413, "batch_too_large")
        answer = await client("POST", run, headers=JSON, content=many.replace("1,", "", 1))
        assert answer.headers["stream-next-offset"] == f"{0:016}_{most:016}"


async def test_bodies_that_are_arriving_have_a_size_together(database_url: str, run: str) -> None:
    with serving(database_url, "direct", max_pending=500_000, max_event=3_000_000) as gateway:
        async with client_of(gateway) as client, asyncio.timeout(60):
            await client("PUT", run, headers=JSON)
            large = b'["' + b"x" * 2_000_000 + b'"]'
            head = (
                f"POST {run} HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: {len(large)}\r\n"
            )
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(head.encode() + b"\r\n" + large[:-1])
            await until(lambda: gateway.app.bodies.held >= len(large) - 1)  # it is alone, and all but its end is there
            for _ in range(5):  # an answer that comes early is not lost, and its connection stays
                answer = await client("POST", run, headers=JSON, content=large)
                assert is_refused(answer, 429, "too_many_pending")
                assert (await client("POST", run, headers=JSON, content="1")).status_code == 204, "it needs no room"
            writer.write(large[-1:])
            assert (await reader.readline()).startswith(b"HTTP/1.1 204 ")
            writer.close()
            assert (await client("POST", run, headers=JSON, content=large)).status_code == 204


async def test_a_tenant_has_so_many_runs(database_url: str, run: str) -> None:
    keys = f"ada@acme:read,write,admin:{'a' * 40} bob:read,write:{'b' * 40}"
    async with limited(database_url, auth="keys", keys=keys, max_runs_per_tenant=2) as client:
        for number in range(2):
            assert (await client("PUT", f"{run}-{number}", headers=JSON | ADA)).status_code == 201
        assert is_refused(await client("PUT", f"{run}-2", headers=JSON | ADA), 429, "too_many_runs")
        assert is_refused(await client("POST", "/runs", headers=ADA, json={}), 429, "too_many_runs")
        assert (await client("PUT", f"{run}-0", headers=JSON | ADA)).status_code == 200, "it is there: nothing is made"
        assert (await client("PUT", f"/v1/stream/{run[6:]}", headers=JSON | ADA)).status_code == 201, "it is no run"
        assert (await client("PUT", f"{run}-2", headers=JSON | BOB)).status_code == 201
        assert (await client("DELETE", f"{run}-0", headers=ADA)).status_code == 204
        async with asyncio.timeout(PATIENCE):  # a count is good for some seconds
            while (await client("PUT", f"{run}-2", headers=JSON | ADA)).status_code != 201:  # noqa: ASYNC110
                await asyncio.sleep(0.2)


def test_a_bucket_fills_with_time_and_no_further() -> None:
    rate = Rate(2)
    assert [rate.take("a", 0.0) for _ in range(3)] == [True, True, False]
    assert rate.take("b", 0.0)
    assert [rate.take("a", 0.5) for _ in range(2)] == [True, False]
    assert [rate.take("a", 1000.0) for _ in range(3)] == [True, True, False]
    slow = Rate(0.1)
    assert [slow.take("a", now) for now in (0.0, 9.0, 10.1, 11.0)] == [True, False, True, False]


class Counting:
    """A database in which every tenant has one run."""

    asked = 0

    @asynccontextmanager
    async def acquire(self, _tenant: str) -> AsyncIterator[Counting]:
        yield self

    async def fetchrow(self, *_: object) -> dict[str, int]:
        self.asked += 1
        return {"runs": 1, "last": 1}


async def test_a_quota_of_runs_does_not_remember_every_tenant() -> None:
    database = Counting()
    quota = RunQuota(cast("Database", database), 10)
    for number in range(MOST_TENANTS + 5_000):
        assert not await quota.full(str(number), None)
    assert len(quota._known) == MOST_TENANTS
    asked = database.asked
    assert not await quota.full(str(number), None), "one that comes often is remembered"
    assert database.asked == asked


def test_who_has_gone_is_not_remembered() -> None:
    rate, share = Rate(1), Share(1)
    for number in range(3 * MOST):
        rate.take(str(number), number * 0.001)
        with share.one(str(number)):
            assert share.full(str(number))
    assert len(rate._buckets) <= MOST
    assert share.held == {}
