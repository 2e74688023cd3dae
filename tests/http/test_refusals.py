"""What is refused before it reaches the log, and what a client sees when something breaks: nothing of the inside."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.databases import Postgres
from tests.http.answers import JSON, at, content, refusal
from tests.servers import Client, Running, client_of, fail_later_pages, following, last_control, payloads, serving

SECRET = 'relation "run_gateway.streams" does not exist: SELECT * FROM run_gateway.streams; /srv/gateway/log/writer.py'


async def test_a_body_over_the_limit_is_refused_and_changes_nothing(client: Client, path: str) -> None:
    too_large = b'"%b"' % (b"x" * 99_999)
    assert refusal(await client("PUT", path, headers=JSON, content=too_large)) == (413, "body_too_large")
    assert (await client("HEAD", path)).status_code == 404
    await client("PUT", path, headers=JSON)
    assert refusal(await client("POST", path, headers=JSON, content=too_large)) == (413, "body_too_large")
    just = b'"%b"' % (b"x" * 99_998)
    assert (await client("POST", path, headers=JSON, content=just)).status_code == 204
    assert [len(event) for event in await content(client, path)] == [99_998]


async def test_a_body_over_the_limit_in_chunks_is_refused_too(client: Client, path: str) -> None:
    await client("PUT", path, headers={"Content-Type": "text/plain"})

    async def pieces(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"x" * 10_000

    answer = await client("POST", path, headers={"Content-Type": "text/plain"}, content=pieces(11))
    assert refusal(answer) == (413, "body_too_large")
    assert (await client("POST", path, headers={"Content-Type": "text/plain"}, content=pieces(10))).status_code == 204
    assert (await client("HEAD", path)).headers["stream-next-offset"] == at(1)


async def test_a_connection_serves_on_after_a_body_was_refused(gateway: Running, run: str) -> None:
    too_large = f"PUT {run} HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n".encode() + b"x" * 200_000
    answer = await gateway.raw(too_large + b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b'\r\n\r\n{"status":"ok"}')


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
@pytest.mark.parametrize(
    "target",
    [
        "/runs/" + "x" * 257,
        "/v1/stream/runs/" + "x" * 257,
        "/v1/stream/" + "x" * 1025,
        "/runs/" + "%C3%A9" * 257,
        "/runs/a%00",
        "/runs/a%0A",
        "/v1/stream/a%0D%0Ab",
        "/v1/stream/%1F",
        "/runs/a%7F",
        "/runs/a%C2%85",
        "/runs/a%FF",
        "/runs/%ED%A0%80",
    ],
)
async def test_an_id_that_cannot_be_is_refused(client: Client, method: str, target: str) -> None:
    assert refusal(await client(method, target, headers=JSON, content="1")) == (400, "invalid_request")


@pytest.mark.parametrize(
    "id", ["x" * 249, "%C3%A9" * 249, "a%20b", "a%2Fb", "%F0%9F%99%82", "a+b", "a:b@c;d=e,f", "...", "%25"]
)
async def test_any_other_id_is_a_run(gateway: Running, protocol: str, id: str) -> None:
    target = f"/runs/{id}-{protocol}".encode()
    answer = await gateway.raw(b"PUT %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % target)
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert b"\r\nlocation: http://h%b\r\n" % target in answer


@pytest.mark.parametrize(
    "junk", [b"GET /runs/\x01 HTTP/1.1\r\n\r\n", b"nonsense\r\n\r\n", b"GET /runs/\xff HTTP/1.1\r\n\r\n"]
)
async def test_what_is_not_http_is_400_and_shows_nothing_of_the_inside(gateway: Running, junk: bytes) -> None:
    answer = await gateway.raw(junk)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert_nothing_of_the_inside(answer.decode("latin-1"))


async def test_every_answer_has_the_headers_that_browsers_need(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON, content="[1]")
    answers = [
        await client("GET", path),
        await client("HEAD", path),
        await client("POST", path, headers=JSON, content="{"),
        await client("GET", path + "-nothing"),
        await client("GET", path + "?offset=now&live=long-poll"),
        await client("OPTIONS", path),
        await client("PATCH", path),
        await client("GET", "/nothing"),
        await client("DELETE", path),
    ]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-expose-headers" in answer.headers
        assert "server" not in answer.headers


async def test_health_and_readiness(client: Client) -> None:
    health = await client("GET", "/health")
    assert (health.status_code, health.json()) == (200, {"status": "ok"})
    ready = await client("GET", "/ready")
    assert ready.status_code == 200
    said = ready.json()
    assert said.pop("durability")["synchronous_commit"] == "on"
    assert said.pop("machine")
    assert said == {"database": True, "news": "listen", "draining": False}


# A database that is away


@asynccontextmanager
async def away(postgres: Postgres, database_url: str) -> AsyncIterator[None]:
    """The database ends all its connections and takes no new ones."""
    name = database_url.split("?")[0].rpartition("/")[2]
    await postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    try:
        await postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        yield
    finally:
        await postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


async def test_an_outage_of_the_database_is_503_and_then_over(
    postgres: Postgres, database_url: str, protocol: str, path: str
) -> None:
    with serving(database_url, protocol, sweep_interval=0.2, poll_interval=0.2) as gateway:
        async with client_of(gateway) as client:
            await client("PUT", path, headers=JSON, content="[1]")
            async with following(client, f"{path}?offset=-1&live=sse") as follow:
                await follow.until(lambda reading: payloads(reading) == [1])
                async with away(postgres, database_url):
                    waits = set()
                    for _ in range(4):
                        for method in ("GET", "PUT", "POST", "DELETE"):
                            refused = await client(method, path, headers=JSON, content="9")
                            # An append that found no connection is told that it was not applied.
                            told = {"unavailable", "not_sent"} if method == "POST" else {"unavailable"}
                            assert refused.status_code == 503
                            assert refusal(refused)[1] in told
                            assert_nothing_of_the_inside(refused.text)
                            waits.add(int(refused.headers["retry-after"]))
                        for live in ("sse", "long-poll"):
                            assert refusal(await client("GET", f"{path}-2?offset=-1&live={live}"))[0] == 503
                    known = await client("GET", f"{path}?offset=-1&live=long-poll")
                    assert (known.status_code, known.content) == (200, b"[1]"), "what is followed here is remembered"
                    assert waits <= {1, 2, 3}
                    assert len(waits) > 1, "jittered, or all come back at once"
                    head = await client("HEAD", path)
                    assert (head.status_code, head.content) == (503, b"")
                    assert (await client("GET", "/health")).status_code == 200
                    ready = await client("GET", "/ready")
                    assert (ready.status_code, ready.json()["database"]) == (503, False)
                answer = await client("POST", path, headers=JSON | {"Stream-Closed": "true"}, content="2")
                while answer.status_code == 503:
                    answer = await client("POST", path, headers=JSON | {"Stream-Closed": "true"}, content="2")
                assert answer.status_code == 204
                reading = await follow.end()
                if "streamClosed" not in last_control(reading):
                    async with following(client, f"{path}?offset={reading.last_event_id}&live=sse") as again:
                        assert payloads(reading) + payloads(await again.end()) == [1, 2]
                else:
                    assert payloads(reading) == [1, 2]


# What nobody expected


def assert_nothing_of_the_inside(text: str) -> None:
    for sign in ("Traceback", "File ", ".py", "SELECT", "relation", "run_gateway", "/srv", "asyncpg", "postgres"):
        assert sign.lower() not in text.lower(), text


@asynccontextmanager
async def broken(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    """A client of a gateway whose log raises what nobody expected."""

    async def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError(SECRET)

    def fail_at_once(*_: Any, **__: Any) -> Any:
        raise RuntimeError(SECRET)

    for name in ("create", "append", "delete", "stat", "read"):
        monkeypatch.setattr(gateway.app._streams._log, name, fail)
    monkeypatch.setattr(gateway.app._streams._log, "submit", fail_at_once)
    monkeypatch.setattr(gateway.app._hub, "_read_log", fail)
    async with client_of(gateway) as client:
        yield client
    monkeypatch.undo()


REQUESTS = [
    ("GET", ""),
    ("GET", "?offset=-1&live=long-poll"),
    ("GET", "?offset=-1&live=sse"),
    ("PUT", ""),
    ("POST", ""),
    ("DELETE", ""),
    ("HEAD", ""),
]


@pytest.mark.parametrize(("method", "query"), REQUESTS)
async def test_a_fault_of_the_gateway_shows_nothing_of_the_inside(
    gateway: Running, path: str, method: str, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with broken(gateway, monkeypatch) as client:
        answer = await client(method, path + query, headers=JSON, content="1")
        assert answer.status_code == 500
        assert_nothing_of_the_inside(answer.text + str(answer.headers))


@pytest.mark.parametrize(("method", "query"), [request for request in REQUESTS if request[0] != "HEAD"])
async def test_a_fault_of_the_gateway_is_told_in_the_one_shape(
    gateway: Running, path: str, method: str, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with broken(gateway, monkeypatch) as client:
        answer = await client(method, path + query, headers=JSON, content="1")
        assert refusal(answer)[0] == 500
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_fault_in_an_event_stream_cuts_it_and_shows_nothing(
    database_url: str, protocol: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(database_url, protocol, page_bytes=1024) as gateway:
        async with client_of(gateway) as client:
            await client("PUT", path, headers=JSON)
            await client("POST", path, headers=JSON, json=["x" * 600] * 10)
            fail_later_pages(monkeypatch, gateway.app._hub, RuntimeError(SECRET))
            answer = (await gateway.get_raw(f"{path}?offset=-1&live=sse")).decode()
            assert re.findall("event: (.*)", answer) == ["data", "control"]
            assert_nothing_of_the_inside(answer)
