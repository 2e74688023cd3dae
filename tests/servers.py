"""Gateways in this process, over a real loopback socket and under either of uvicorn's protocol classes.

Each runs in a thread with a loop of its own, as a Machine does in a process: quicker to start, and open to stubs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn

from gateway.app import Gateway
from gateway.fanout.hub import Hub
from gateway.http.connection import connections
from gateway.protocol.batch import Page
from gateway.protocol.target import Target
from gateway.settings import Settings
from gateway.wire.server import Server
from tests.event_source import Reading, read

PATIENCE = 60.0  # seconds that anything may take: a busy machine is no fault

PROTOCOLS: dict[str, Callable[[Gateway], Any]] = {
    "direct": lambda app: connections(
        request_timeout=app.settings.request_timeout,
        send_timeout=app.settings.send_timeout,
        max_head=app.settings.max_head,
        max_connections=app.settings.max_connections,
        common=app.cors.constant,
        bodies=app.bodies,
        outflow=app.outflow,
    ),
    "asgi": lambda _: "httptools",
}


class _Server(Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        finally:
            self.ready.set()


@dataclass
class Running:
    """A gateway that listens on `port`; `app` may be looked into and stubbed."""

    app: Gateway
    port: int
    server: _Server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def raw(self, request: bytes) -> bytes:
        """Sends bytes as they are, and returns all that comes until the server ends the connection."""
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(request)
                return await reader.read()
            finally:
                writer.close()
                await writer.wait_closed()

    async def get_raw(self, target: str, *headers: str, method: str = "GET") -> bytes:
        """The bytes of the answer to a request without a body, whose target is not touched."""
        lines = [f"{method} {target} HTTP/1.1", "Host: h", *headers, "Connection: close", "", ""]
        return await self.raw("\r\n".join(lines).encode("latin-1"))


async def until(condition: Callable[[], bool]) -> None:
    """Waits until something in the gateway's own thread has come about. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  it is nobody's business over there to tell
            await asyncio.sleep(0.005)


def body_of(response: bytes) -> bytes:
    """The body of raw bytes of a response, out of its chunks."""
    head, _, rest = response.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head.lower():
        return rest
    body = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            assert rest == b"\r\n", "a chunked body ends cleanly, and nothing comes after it"
            return body
        body += rest[:length]
        assert rest[length : length + 2] == b"\r\n"
        rest = rest[length + 2 :]


@contextlib.contextmanager
def serving(
    database_url: str, protocol: str, *, around: Callable[[Gateway], Any] = lambda app: app, **settings: Any
) -> Iterator[Running]:
    """A gateway over this database, until the block ends. `around`: what is served in its place."""
    app = Gateway(Settings(drain_timeout=0, **settings), database_url)
    config = uvicorn.Config(
        around(app),
        http=PROTOCOLS[protocol](app),
        loop="uvloop",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            assert server.ready.wait(PATIENCE)
            assert server.started, "the application did not start"
            yield Running(app, sock.getsockname()[1], server)
        finally:
            app.begin_drain()
            server.should_exit = True
            thread.join(PATIENCE)
    assert not thread.is_alive()


class Client:
    """httpx, which holds every answer against the OpenAPI description: what is not described is a defect."""

    def __init__(self, http: httpx.AsyncClient, document: dict[str, Any]) -> None:
        self._http = http
        self._document = document
        self.url = str(http.base_url)

    async def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        response = await self._http.request(method, path, **options)
        self.check(response)
        return response

    @contextlib.asynccontextmanager
    async def stream(self, path: str, **options: Any) -> AsyncIterator[httpx.Response]:
        async with self._http.stream("GET", path, **options) as response:
            self.check(response)
            yield response

    def check(self, response: httpx.Response) -> None:
        """Fails when the description does not have this answer's status, headers or type of refusal."""
        path = response.url.path
        if Target.of(path).stream is None or response.status_code == 405:
            return
        route = _route(path)
        operation = self._document["paths"][route][response.request.method.lower()]
        assert str(response.status_code) in operation["responses"], response.status_code
        described = operation["responses"][str(response.status_code)]
        names = {name.lower() for name in described.get("headers", {})}
        for name in response.headers:
            if name.startswith(("stream-", "producer-", "run-")) or name in ("etag", "location", "retry-after"):
                assert name in names, f"{response.request.method} {response.status_code} does not describe {name}"
        if response.is_error and response.request.method != "HEAD" and response.is_stream_consumed:
            error = json.loads(response.content)["error"]
            assert error["type"] in described["description"]


def _route(path: str) -> str:
    """The route in the description that a path is of."""
    part = Target.of(path).part
    if part is not None:
        return "/runs/{id}" + part.value
    return "/runs/{id}" if path.startswith("/runs/") else "/v1/stream/{path}"


@contextlib.asynccontextmanager
async def client_of(running: Running) -> AsyncIterator[Client]:
    document = running.app.api.now().openapi()
    async with httpx.AsyncClient(
        base_url=running.url, timeout=PATIENCE, limits=httpx.Limits(max_connections=50)
    ) as http:
        yield Client(http, document)


class Follow:
    """An SSE response as it comes: all its bytes so far, and what an EventSource has made of them."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.bytes = b""
        self.reading = read(b"")
        self._pieces = response.aiter_raw()

    async def until(self, done: Callable[[Reading], bool], patience: float = PATIENCE) -> Reading:
        """Reads on until `done`. Raises TimeoutError."""
        async with asyncio.timeout(patience):
            while not done(self.reading):
                self._take(await anext(self._pieces))
        return self.reading

    async def end(self, patience: float = PATIENCE) -> Reading:
        """Reads to the end, which has to be a clean one. Raises TimeoutError, httpx.RemoteProtocolError."""
        async with asyncio.timeout(patience):
            async for piece in self._pieces:
                self._take(piece)
        return self.reading

    def _take(self, piece: bytes) -> None:
        self.bytes += piece
        self.reading = read(self.bytes)


@contextlib.asynccontextmanager
async def following(client: Client, target: str, **headers: str) -> AsyncIterator[Follow]:
    """An SSE read that is under way."""
    async with client.stream(target, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        yield Follow(response)


def fail_later_pages(monkeypatch: pytest.MonkeyPatch, hub: Hub, error: Exception) -> None:
    """Has every read of the log fail but the first page of a stream."""
    read = hub.read._read

    async def failing(path: str, position: int, **how: Any) -> Page:
        if position:
            raise error
        return await read(path, position, **how)

    monkeypatch.setattr(hub.read, "_read", failing)


def payloads(reading: Reading) -> list[Any]:
    """The JSON events that have been delivered, flattened."""
    return [item for event in reading.events if event.type == "data" for item in json.loads(event.data)]


def last_control(reading: Reading) -> dict[str, Any]:
    control: dict[str, Any] = json.loads([event.data for event in reading.events if event.type == "control"][-1])
    return control
