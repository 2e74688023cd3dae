"""All limits on all ways in. The ways are the application's own routes, so that one without its limits fails here.

A way is one method of one route; where it is answered by different code (a POST past ASGI, a live read, a wait for a
run's end), each of these is a way. `marks` say what it does, and so which limits it has to keep.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import pytest

from gateway.auth.rules import ROUTES
from gateway.protocol import json_body
from gateway.settings import Settings
from tests.servers import PATIENCE, Running, body_of, client_of, following, serving, until

RUN: Final = "run"
LIVE: Final = f"/runs/{RUN}?offset=-1&live=sse"
CHAT: Final = "/api/chat"
SUBSCRIPTION: Final = "/v1/stream/__ds/subscriptions/{id}"


@dataclass(frozen=True)
class Way:
    """`marks`: it takes a `body`, stays `live`, makes an `append`, a `stream` or a `run`, or is a `probe`."""

    method: str
    route: str
    marks: str = ""
    query: str = ""
    past_asgi: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.route}{self.query}{' past ASGI' if self.past_asgi else ''}"

    def target(self, name: str = RUN) -> str:
        path = self.route.replace("{id}", name).replace("{path}", name).replace("{path:path}", name)
        return path.replace("{rest:path}", "none") + self.query

    def asked(self, name: str = RUN) -> dict[str, Any]:
        """What of a request it cannot do without."""
        return {"content": orjson.dumps({"id": name})} if self.route == CHAT else {}

    def content(self, events: bytes) -> dict[str, Any]:
        """A body that appends events, and its type where that is another than the events'."""
        if self.route != "/v1/appends":
            return {"content": events}
        head = orjson.dumps({"stream": f"runs/{RUN}"})
        return {"content": b"%b\n%b\n" % (head, events), "headers": {"content-type": self.type}}

    @property
    def type(self) -> str:
        return "application/x-ndjson" if self.route == "/v1/appends" else "application/json"


def stream(route: str, made: str) -> list[Way]:
    return [
        Way("GET", route),
        Way("GET", route, "live", "?offset=now&live=long-poll"),
        Way("GET", route, "live", "?offset=now&live=sse"),
        Way("GET", route, "live", "?offset=now&live=long-poll&fold=type:text"),
        Way("GET", route, "live", "?offset=now&live=sse&fold=type:text"),
        Way("HEAD", route),
        Way("PUT", route, made),
        Way("POST", route, "body append", past_asgi=True),
        Way("POST", route, "body append", "?by=asgi"),
        Way("DELETE", route),
    ]


WAYS: Final = [
    *stream("/v1/stream/{path}", "body stream"),
    *stream("/runs/{id}", "body stream run"),
    Way("GET", "/runs/{id}", "", "?meta"),
    Way("GET", "/runs/{id}", "live", "?meta&wait=60"),
    *[way for way in stream("/runs/{id}/control", "body stream") if way.method != "DELETE" and not way.past_asgi],
    Way("POST", "/runs/{id}/cancel", "body"),
    Way("POST", "/runs/{id}/token", "body"),
    Way("POST", "/runs/{id}/heartbeat", "body", past_asgi=True),
    Way("POST", "/runs/{id}/heartbeat", "body", "?by=asgi"),
    Way("POST", "/v1/appends", "body append"),
    Way("POST", "/runs", "body stream run"),
    Way("GET", "/runs"),
    Way("GET", "/runs", "live", "?live=sse"),
    Way("GET", "/v1/stream", "live", f"?live=sse&stream=runs/{RUN}"),
    Way("GET", "/v1/stream", "live", f"?live=sse&stream=runs/{RUN}&fold=type:text"),
    Way("POST", "/v1/stream", "body live", "?live=sse"),
    Way("GET", "/v1/stream", "live", "?live=sse&status=active"),
    Way("GET", "/health", "probe"),
    Way("GET", "/ready", "probe"),
    *[Way("GET", route) for route in ("/metrics", "/openapi.json", "/docs", "/docs/start.js", "/ui", "/ui/{file}")],
    *[Way("GET", route) for route in ("/client.js", "/client.d.ts")],
    *[Way("GET", route) for route in ("/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css")],
    Way("GET", "/v1/stream/__ds/jwks.json"),
    Way("GET", SUBSCRIPTION.removesuffix("/{id}")),
    Way("PUT", SUBSCRIPTION, "body"),
    Way("GET", SUBSCRIPTION),
    Way("DELETE", SUBSCRIPTION),
    Way("POST", f"{SUBSCRIPTION}/streams", "body"),
    Way("DELETE", f"{SUBSCRIPTION}/streams/{{path:path}}"),
    *[Way("POST", f"{SUBSCRIPTION}/{name}", "body") for name in ("claim", "callback", "ack", "release")],
    *[Way("GET", f"/v1/stream/__ds{rest}") for rest in ("", "/{rest:path}")],
    Way("GET", "/of-the-application"),
    Way("POST", "/of-the-application"),
]
RELAYED: Final = [
    Way("POST", CHAT, "live stream run"),
    Way("GET", f"{CHAT}/{{id}}/stream", "live"),
]
BEHIND: Final = [  # what passes more than the door has limits of its own, too: tests/relay/test_limits, tests/owner
    Way("GET", "/owned/{id}"),
    Way("POST", "/owned/{id}"),
    *RELAYED,
    Way("POST", f"{CHAT}/{{id}}/stop"),
]
METHODS: Final = ("get", "head", "put", "post", "patch", "delete")


def ways(mark: str = "", *, but: str = "never") -> list[Way]:
    return [way for way in (*WAYS, *RELAYED) if mark in way.marks and but not in way.marks]


@contextmanager
def limited(database_url: str, **settings: Any) -> Iterator[Running]:
    """A gateway in front of an application that is not there, which a request over a limit does not get to."""
    behind: dict[str, Any] = {"upstream": "http://127.0.0.1:1", "relay": "ai-sdk:/api/chat", "owned": "/owned/{id}"}
    with serving(database_url, "direct", **(behind | settings)) as gateway:
        yield gateway


@asynccontextmanager
async def recorded(database_url: str, **settings: Any) -> AsyncIterator[Running]:
    """A gateway that records an answer of the application, which goes on. Nobody reads it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {}\n\n")
        while await reader.read(1 << 16):
            pass
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as application:
        upstream = f"http://127.0.0.1:{application.sockets[0].getsockname()[1]}"
        with limited(database_url, upstream=upstream, relay_drain=0, **settings) as gateway:
            async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE) as http:
                async with http.stream("POST", CHAT, **Way("POST", CHAT).asked()) as answered:
                    assert answered.status_code == 200
                    await anext(answered.aiter_raw())
                await until(lambda: not gateway.app._limits.readers.sse.count)
            yield gateway


@asynccontextmanager
async def a_run(gateway: Running, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    """With the run, its control stream, and a stream of the same name; closes each connection after its answer."""
    closing = {"connection": "close", "content-type": "application/json", **headers}
    async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE, headers=closing) as http:
        for path in (f"/runs/{RUN}", f"/runs/{RUN}/control", f"/v1/stream/{RUN}"):
            assert (await http.put(path)).status_code in (200, 201)
        yield http


@asynccontextmanager
async def reading(gateway: Running, target: str = LIVE, **headers: str) -> AsyncIterator[None]:
    """Somebody reads while the block runs."""
    async with client_of(gateway) as client, following(client, target, **headers) as follow:
        await follow.until(lambda found: len(found.events) > 0)
        yield


Ask = Callable[[Way], Awaitable[httpx.Response]]


async def each_is_refused(those: list[Way], ask: Ask, *expected: tuple[int, str]) -> None:
    """Every one of these ways, in this state, for this reason."""
    wrong = []
    for way in those:
        answer = await ask(way)
        if way.method == "HEAD":
            got = (answer.status_code, next((type for status, type in expected if status == answer.status_code), ""))
        else:
            told = answer.json() if "json" in answer.headers.get("content-type", "") else {}
            status = told["status"] if "append" in told else answer.status_code  # of the only append
            got = (status, told.get("error", {}).get("type", ""))
        if got not in expected:
            wrong.append((str(way), *got))
    assert those, "a limit of nothing"
    assert wrong == []


# The ways


def test_every_route_and_method_is_one_of_the_ways(database_url: str) -> None:
    with limited(database_url) as gateway:
        document = gateway.app.api.now().openapi()
    described = {
        (method.upper(), route)
        for route, operations in document["paths"].items()
        for method in operations
        if method in METHODS
    }
    hidden = {("GET", route) for route in ROUTES if ROUTES[route].get("GET") and route != "/"}
    known = {(way.method, way.route.replace(":path", "")) for way in WAYS}
    assert described <= known
    assert {(method, route.replace(":path", "")) for method, route in hidden} <= known
    parameters = {each["name"] for each in document["paths"]["/runs/{id}"]["get"]["parameters"]}
    assert parameters == {
        "offset",
        "live",
        "cursor",
        "fold",
        "named",
        "Last-Event-ID",
        "If-None-Match",
        "Stream-Next-Offset",
        "Stream-Closed",
        "tail",
        "meta",
        "wait",
    }, "what else may make a read last?"


ELSEWHERE: Final = {  # limits of one way, or of what no request comes by
    "max_followed": "http/test_many.py",
    "max_fork_depth": "log/test_removal.py",
    "max_forks": "log/test_removal.py",
    "max_head": "http/test_two_ways.py",
    "max_lists": "hardening/test_lists.py",
    "max_reads": "hardening/test_turns.py",
    "max_subscription_changes": "hardening/test_subscriptions.py",
    "max_subscriptions_per_tenant": "hardening/test_subscriptions.py",
    "relay_max_duration": "relay/test_ends.py",
    "relay_max_recordings": "relay/test_limits.py",
}


def test_every_limit_is_tried_here_or_where_it_is_said() -> None:
    limits = {name for name in Settings.model_fields if "max_" in name and not name.endswith("max_age")}
    here = {name for name in limits if f"{name}=" in Path(__file__).read_text()}
    assert here.isdisjoint(ELSEWHERE) and here | set(ELSEWHERE) == limits
    for name, file in ELSEWHERE.items():
        assert name in (Path(__file__).parents[1] / file).read_text()


# The limits


async def test_requests_of_one_address(database_url: str) -> None:
    async def ask(way: Way) -> httpx.Response:
        return await http.request(way.method, way.target(), headers=mine)

    mine = {"x-forwarded-for": "192.0.2.1"}
    with limited(database_url, max_requests_per_address=1) as gateway:
        async with a_run(gateway) as http, reading(gateway, **mine):
            await each_is_refused([*WAYS, *BEHIND], ask, (429, "too_many_requests"))


async def test_connections(database_url: str) -> None:
    async def ask(way: Way) -> httpx.Response:
        return await http.request(way.method, way.target())

    with limited(database_url, max_connections=1) as gateway:
        async with a_run(gateway) as http:
            await until(lambda: not gateway.server.server_state.connections)
            async with reading(gateway):
                those = [*ways(but="probe"), *BEHIND]
                await each_is_refused(those, ask, (503, "too_many_connections"))
                for way in ways("probe"):
                    assert (await ask(way)).status_code == 200, "a load balancer is told that this Machine lives"


async def test_heads(database_url: str) -> None:
    async def ask(way: Way) -> httpx.Response:
        return await http.request(way.method, way.target(), headers={"x-long": "x" * 200_000})

    with limited(database_url) as gateway:
        async with a_run(gateway) as http:
            await each_is_refused([*WAYS, *BEHIND], ask, (431, "head_too_large"))


async def test_live_readers_of_a_machine(database_url: str) -> None:
    async def ask(way: Way) -> httpx.Response:
        return await http.request(way.method, way.target(), **way.asked())

    async with recorded(database_url, max_readers=1) as gateway, a_run(gateway) as http, reading(gateway):
        await each_is_refused(ways("live"), ask, (503, "too_many_readers"))


async def test_live_readers_of_a_credential(database_url: str) -> None:
    async def ask(way: Way) -> httpx.Response:
        return await http.request(way.method, way.target(), **way.asked())

    async with recorded(database_url, max_streams_per_token=1) as gateway, a_run(gateway) as http, reading(gateway):
        await each_is_refused(ways("live"), ask, (429, "too_many_streams"))


async def test_live_readers_of_a_machine_that_drains(database_url: str) -> None:
    async def ask(way: Way) -> httpx.Response:
        return await http.request(way.method, way.target(), **way.asked())

    async with recorded(database_url) as gateway, a_run(gateway) as http:
        gateway.app.begin_drain()
        await until(lambda: gateway.app._hub.drained)
        await each_is_refused(ways("live"), ask, (503, "draining"))


async def test_bodies(database_url: str) -> None:
    async def ask(way: Way) -> httpx.Response:
        """Past ASGI a body is short; of any other, only the length has come."""
        length, body = (30_000, b"[%b]" % (b"1" * 29_998)) if way.past_asgi else (20_000_000, b"[")
        head = f"{way.method} {way.target()} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n"
        answer = await gateway.raw(
            f"{head}content-type: {way.type}\r\ncontent-length: {length}\r\n\r\n".encode() + body
        )
        return httpx.Response(int(answer[9:12]), content=body_of(answer), headers={"content-type": "application/json"})

    with limited(database_url, max_body=20_000) as gateway:
        async with a_run(gateway):
            # Who shows no token of a wake is not listened to any longer.
            unknown = (401, "token_invalid")
            await each_is_refused(ways("body"), ask, (413, "body_too_large"), (413, "invalid_request"), unknown)


async def test_an_early_refusal_is_not_lost_as_its_connection_ends(database_url: str) -> None:
    """Most of the body is there, and nobody has read it, as the connection is closed: a reset destroys the answer."""

    async def ask(way: Way) -> httpx.Response:
        head = f"{way.method} {way.target()} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n"
        head += f"content-type: {way.type}\r\ncontent-length: {len(large)}\r\n\r\n"
        answer = await gateway.raw(head.encode() + large)
        return httpx.Response(int(answer[9:12]), content=body_of(answer), headers={"content-type": "application/json"})

    large = b"[%b]" % (b"1" * 4_000_000)
    with limited(database_url, max_body=20_000, max_event=10_000) as gateway:
        async with a_run(gateway):
            unknown = (401, "token_invalid")
            await each_is_refused(ways("body"), ask, (413, "body_too_large"), (413, "invalid_request"), unknown)


async def test_no_json_is_parsed_at_once_that_takes_long(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever route it comes by: the loop is given back after each piece."""

    async def ask(way: Way) -> None:
        target = way.target(RUN if way.method == "POST" else "another")
        await http.request(way.method, target, **way.content(large))

    def noting(parse: Callable[..., Any]) -> Callable[..., Any]:
        def noted(text: Any, **how: Any) -> Any:
            longest[way] = max(longest.get(way, 0), len(text))
            return parse(text, **how)

        return noted

    large = b'{"input":[' + b'{"k": 1},' * 100_000 + b"1]}"
    longest: dict[Way, int] = {}
    monkeypatch.setattr(orjson, "loads", noting(orjson.loads))
    monkeypatch.setattr(json_body, "messages", noting(json_body.messages))
    with limited(database_url) as gateway:
        async with a_run(gateway) as http:
            for way in ways("body"):
                await ask(way)
    assert {str(way): size for way, size in longest.items() if size > 3 * json_body.PIECE} == {}
    assert len(longest) > 5, "some of it was parsed"


async def test_bodies_that_are_arriving_together(database_url: str) -> None:
    with limited(database_url, max_pending=1_000) as gateway:
        async with a_run(gateway), half_a_body(gateway, Way("POST", "/runs/{id}", query="?by=asgi"), 2_000):
            await until(lambda: gateway.app._limits.bodies.held > 1_000)

            async def ask(way: Way) -> httpx.Response:
                async with half_a_body(gateway, way, 500) as reader:
                    try:
                        async with asyncio.timeout(10):
                            head = await reader.readuntil(b"\r\n\r\n")
                            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                            body = await reader.readexactly(int(length))
                    except TimeoutError:
                        return httpx.Response(100, text="it waits for the rest")
                return httpx.Response(int(head[9:12]), content=body, headers={"content-type": "application/json"})

            those = [*ways("body"), Way("POST", CHAT)]
            await each_is_refused(those, ask, (429, "too_many_pending"), (401, "token_invalid"))


@asynccontextmanager
async def half_a_body(gateway: Running, way: Way, size: int) -> AsyncIterator[asyncio.StreamReader]:
    """A request whose body has begun to arrive after its head: what comes with the head is not counted."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        head = f"{way.method} {way.target()} HTTP/1.1\r\nhost: h\r\ncontent-type: {way.type}\r\n"
        writer.write(f"{head}content-length: {2 * size}\r\n\r\n[".encode())
        for _ in range(10):
            await asyncio.sleep(0.02)
            writer.write(b"1" * (size // 10))
        yield reader
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_appends_of_a_credential(database_url: str) -> None:
    async def ask(way: Way) -> httpx.Response:
        return await http.request(way.method, way.target(), **way.content(b"1"))

    with limited(database_url, max_appends_per_token=0.001) as gateway:
        async with a_run(gateway) as http:
            assert (await http.post(f"/runs/{RUN}", content=b"1")).status_code == 204
            await each_is_refused(ways("append"), ask, (429, "too_many_appends"))


async def test_streams_that_a_credential_makes(database_url: str) -> None:
    async def ask(way: Way) -> httpx.Response:
        return await http.request(way.method, way.target("another"), **way.asked("another"))

    with limited(database_url, max_creates_per_token=3.001) as gateway:
        async with a_run(gateway) as http:
            gateway.app._quotas._creates.limit = 0.001  # type: ignore[union-attr]
            while (await http.put("/v1/stream/last")).status_code != 429:
                pass
            await each_is_refused(ways("stream"), ask, (429, "too_many_creates"))


async def test_runs_of_a_tenant(database_url: str) -> None:
    async def ask(way: Way) -> httpx.Response:
        return await http.request(way.method, way.target("another"), **way.asked("another"))

    with limited(database_url, max_runs_per_tenant=1) as gateway:
        async with a_run(gateway) as http:
            elsewhere = Way("PUT", "/v1/stream/runs/{id}")
            await each_is_refused([*ways("run"), elsewhere], ask, (429, "too_many_runs"))


async def test_events_of_a_request_and_their_size(database_url: str) -> None:
    with limited(database_url, max_batch=3, max_event=10) as gateway:
        async with a_run(gateway) as http:
            those = [*ways("append"), *[way for way in ways("body stream") if way.method == "PUT"]]
            for content, type in ((b"[1,2,3,4]", "batch_too_large"), (b'["123456789"]', "event_too_large")):

                async def ask(way: Way, content: bytes = content) -> httpx.Response:
                    return await http.request(way.method, way.target(), **way.content(content))

                await each_is_refused(those, ask, (413, type))
