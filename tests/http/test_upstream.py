"""What is not the gateway's own passes through to the application behind it, and back, as it is."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
import pytest_asyncio
import uvicorn

from gateway.asgi import Headers, Receive, Scope, Send
from gateway.auth.rules import LEFT, ROUTES
from gateway.fanout.follower import EXTENSION
from gateway.http.upstream import MOST_ROUNDS, forwarded, returned
from tests.machines import Machine, free_port
from tests.manual import manual
from tests.servers import PATIENCE, Running, body_of, serving, until

LARGE = 14 << 20


@dataclass
class Application:
    """A small ASGI application that tells what it was sent; `/slow` streams until its client goes."""

    requests: list[tuple[str, str, bytes, Headers]] = field(default_factory=list)
    pieces: int = 0  # of the body under way
    streaming: int = 0
    port: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self.requests.append((scope["method"], scope["path"], scope["query_string"], scope["headers"]))
        match scope["path"]:
            case "/echo":
                await self._echo(receive, send)
            case "/slow":
                await self._slow(receive, send)
            case "/nothing":
                await _answer(send, 204, [])
            case "/unchanged":
                await _answer(send, 304, [(b"etag", b'"1"'), (b"content-length", b"5")])
            case "/cut":
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
                await send({"type": "http.response.body", "body": b"half", "more_body": True})
                raise ConnectionAbortedError
            case _:
                await _answer(send, 418, [(b"X-Odd", b"1"), (b"x-odd", b"2"), (b"set-cookie", b"a=b")], b"teapot")

    async def _echo(self, receive: Receive, send: Send) -> None:
        """Each piece goes back before the next is asked for."""
        self.pieces = 0
        body = bytearray()
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            self.pieces += 1
            more = message.get("more_body", False)
        await _answer(send, 200, [(b"content-type", b"application/octet-stream")], bytes(body))

    async def _slow(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        self.streaming += 1
        while (await receive())["type"] != "http.disconnect":
            pass
        self.streaming -= 1


async def _answer(send: Send, status: int, headers: Headers, body: bytes = b"") -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@pytest.fixture(scope="module")
def application() -> Iterator[Application]:
    app = Application()
    config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = _Server(config)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        app.port = sock.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        yield app
        server.should_exit = True
        thread.join(PATIENCE)


@pytest.fixture(scope="module")
def gateway(database_of_all: str, application: Application) -> Iterator[Running]:
    with serving(database_of_all, "direct", upstream=f"http://127.0.0.1:{application.port}") as running:
        yield running


@pytest_asyncio.fixture
async def http(gateway: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE) as client:
        yield client


async def test_method_query_and_escapes_reach_the_upstream_unchanged(
    http: httpx.AsyncClient, application: Application
) -> None:
    response = await http.request("PATCH", "/a%2Fb//c?x=1&x=%20", headers={"authorization": "Bearer theirs"})
    assert (response.status_code, response.content) == (418, b"teapot")
    assert response.headers.get_list("x-odd") == ["1", "2"]
    assert response.headers["set-cookie"] == "a=b"
    assert "access-control-allow-origin" not in response.headers, "its headers are its own"
    method, path, query, headers = application.requests[-1]
    assert (method, path, query) == ("PATCH", "/a/b//c", b"x=1&x=%20")
    given = dict(headers)
    assert given[b"authorization"] == b"Bearer theirs"
    assert given[b"host"] == http.base_url.netloc
    assert given[b"x-forwarded-for"] == b"127.0.0.1"
    assert given[b"x-forwarded-proto"] == b"http"


@pytest.mark.parametrize("path", ["/health", "/ready", "/runs", "/runs/1", "/v1/stream/1", "/metrics", "/openapi.json"])
async def test_what_is_ours_does_not_go_there(http: httpx.AsyncClient, application: Application, path: str) -> None:
    before = len(application.requests)
    assert (await http.get(path)).status_code in (200, 404)
    assert len(application.requests) == before


def test_the_manual_names_each_path_that_is_ours() -> None:
    told = manual("http").split("## In front of an application")[1].split("\n\n")[1]
    for route in (*ROUTES, *LEFT):
        first = "/".join(route.split("/")[: 3 if route.startswith("/v1/") else 2])
        assert f"`{first}`" in told, route


@pytest.mark.parametrize(
    "path",
    [
        "/a/../runs/1", "/./runs/1", "/a/%2e%2e/runs/1", "/a%2F..%2Fruns/1", "//runs/1", "/runs/", "/RUNS/1",
        "/%2572uns/1", "/a%5c..%5cruns%5c1", "/runs;a=b/1", "/a/..;/runs/1", "/%2e%2e/v1/stream/1",
        "http://h/a/../runs/1", "/x/../metrics",
    ],
)  # fmt: skip
async def test_nor_does_what_another_server_might_take_for_ours(
    gateway: Running, application: Application, path: str
) -> None:
    before = len(application.requests)
    assert (await gateway.get_raw(path)).startswith(b"HTTP/1.1 404 ")
    assert len(application.requests) == before


@pytest.mark.parametrize(
    "path", ["/", "/..", "/a/../b", "/a//b;c", "/runsome/1", "/v1/streams", "/x/runs/1", "/%2e%2e%2f", "/healthy"]
)
async def test_all_other_spellings_go_there_as_they_are(gateway: Running, application: Application, path: str) -> None:
    assert (await gateway.get_raw(path)).startswith(b"HTTP/1.1 418 ")
    assert application.requests[-1][1] == unquote(path)


async def test_who_waits_to_be_told_to_continue_is_told(gateway: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        b"POST /echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    )
    async with asyncio.timeout(PATIENCE):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ab")
        assert body_of(await reader.read()) == b"ab"
    writer.close()


@pytest.mark.parametrize("chunked", [False, True])
async def test_large_bodies_pass_both_ways(http: httpx.AsyncClient, chunked: bool) -> None:
    body = bytes(range(256)) * (LARGE // 256)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 100_000):
            yield body[start : start + 100_000]

    response = await http.post("/echo", content=pieces() if chunked else body)
    assert response.content == body


async def test_a_body_is_sent_on_as_it_arrives(gateway: Running, application: Application) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"POST /echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    await until(lambda: bool(application.requests) and application.requests[-1][1] == "/echo")
    await until(lambda: application.pieces == 1)
    writer.write(b"1\r\nb\r\n0\r\n\r\n")
    assert body_of(await reader.read()) == b"ab"
    writer.close()


async def test_an_answer_is_streamed_and_ends_when_its_client_goes(gateway: Running, application: Application) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
    async with asyncio.timeout(PATIENCE):
        assert (await reader.readuntil(b"data: 1\n\n")).startswith(b"HTTP/1.1 200 OK")
    await until(lambda: application.streaming == 1)
    writer.close()
    await until(lambda: application.streaming == 0)


async def test_a_client_that_goes_in_mid_body_is_gone_upstream_too(gateway: Running, application: Application) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"POST /slow HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf")
    await until(lambda: application.streaming == 1)
    writer.close()
    await until(lambda: application.streaming == 0)


async def test_a_client_that_goes_while_nothing_is_taken_is_noticed(database_of_all: str) -> None:
    """The application has stopped: it takes a part of a body, as much as both systems hold, and nothing more."""
    with socket.socket() as stopped:
        stopped.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stopped.bind(("127.0.0.1", 0))
        stopped.listen()
        with serving(database_of_all, "direct", upstream=f"http://127.0.0.1:{stopped.getsockname()[1]}") as gateway:
            upstream = gateway.app._application.upstream
            assert upstream is not None
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(b"PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (4 * LARGE) + bytes(LARGE))
            await until(lambda: len(upstream._open) == 1)
            sizes: list[int] = []  # of what the client has not been rid of: in the end, it is held up

            def held_up() -> bool:
                sizes.append(writer.transport.get_write_buffer_size())
                return len(sizes) > 20 and len(set(sizes[-20:])) == 1

            await until(held_up)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            await until(lambda: not upstream._open)


async def test_answers_without_a_body_have_none(http: httpx.AsyncClient) -> None:
    assert (await http.get("/nothing")).status_code == 204
    unchanged = await http.get("/unchanged")
    assert (unchanged.status_code, unchanged.headers["etag"]) == (304, '"1"')
    assert (await http.head("/else")).status_code == 418
    assert (await http.get("/health")).status_code == 200, "the connection is as good as before"


async def test_an_answer_that_breaks_off_does_not_look_whole(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await http.get("/cut")
    assert caplog.text.count("failed (RemoteProtocolError)") == 1
    assert "without completing" not in caplog.text, "as if it were a defect of ours"


async def test_a_websocket_is_refused_clearly(gateway: Running) -> None:
    answer = await gateway.get_raw("/socket", "Upgrade: websocket")
    assert answer.startswith(b"HTTP/1.1 501 ")
    assert b'"upgrade_not_passed"' in answer


async def test_an_upstream_that_is_not_there_is_a_bad_gateway(
    database_of_all: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(database_of_all, "direct", upstream=f"http://127.0.0.1:{free_port()}") as running:
        async with httpx.AsyncClient(base_url=running.url) as http:
            response = await http.post("/workflows/x", content=b"{}")
            assert response.status_code == 502
            (told,) = [record for record in caplog.records if record.name == "gateway.http.upstream"]
            assert vars(told)["request"] == {
                "request_id": response.headers["x-request-id"],
                "method": "POST",
                "path": "/workflows/x",
                "status": 502,
            }
            assert response.json()["error"]["type"] == "bad_gateway"
            assert (await http.get("/health")).status_code == 200


async def test_only_a_read_is_repeated_when_a_kept_connection_ends(database_of_all: str) -> None:
    """A server that answers the first request of each connection, and goes without a word at the second."""
    methods: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for first in (True, False):
            head = await reader.readuntil(b"\r\n\r\n")
            methods.append(head.split()[0])
            if first:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1") as upstream:
        origin = f"http://127.0.0.1:{upstream.sockets[0].getsockname()[1]}"
        with serving(database_of_all, "direct", upstream=origin) as running:
            async with httpx.AsyncClient(base_url=running.url) as http:
                assert [(await http.get("/")).status_code for _ in range(2)] == [200, 200]
                assert methods == [b"GET", b"GET", b"GET"]
                assert (await http.post("/", content=b"")).status_code == 502
                assert methods[3:] == [b"POST"]


def scope_of(*headers: tuple[bytes, bytes], **more: Any) -> Scope:
    return {"headers": list(headers), "client": ("10.0.0.9", 1), "scheme": "https", "server": ("h", 80), **more}


@pytest.mark.asyncio(loop_scope="session")
async def test_a_request_that_goes_round_is_refused(database_of_all: str) -> None:
    port, passed = free_port(), 0
    with serving(database_of_all, "direct", upstream=f"http://127.0.0.1:{port}") as running:

        async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal passed
            passed += 1
            there, back = await asyncio.open_connection("127.0.0.1", running.port)
            back.write(await reader.readuntil(b"\r\n\r\n"))
            while data := await there.read(1 << 16):
                writer.write(data)
            back.close()
            writer.close()

        async with (
            await asyncio.start_server(pipe, "127.0.0.1", port),
            httpx.AsyncClient(base_url=running.url) as client,
        ):
            answer = await client.get("/x", headers={"connection": "close"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (508, "loop_detected")
    assert passed == MOST_ROUNDS


class FromProxy:
    """A connection of a proxy that is trusted."""

    peer = "10.0.0.1", True


TOLD = ((b"x-forwarded-for", b"203.0.113.7"), (b"x-real-ip", b"203.0.113.7"), (b"client-cert", b":x:"))


def test_no_client_takes_away_what_its_proxy_tells_of_it() -> None:
    """Through a proxy that leaves its client's Connection as it is, a client names there what the proxy says."""
    named = b", ".join(name.title() for name, _ in TOLD) + b", Host, Run-Gateway-Tenant"
    given = forwarded(
        scope_of(
            *((b"host", b"app"), (b"connection", named), (b"run-gateway-tenant", b"acme")),
            *TOLD,
            extensions={EXTENSION: FromProxy()},
        )
    )
    told = dict(given)
    assert told[b"x-forwarded-for"] == b"203.0.113.7, 10.0.0.1"
    assert [told.get(name) for name, _ in TOLD[1:]] == [value for _, value in TOLD[1:]]
    assert (told[b"host"], told[b"run-gateway-tenant"]) == (b"app", b"acme")


def test_what_is_about_one_connection_ends_with_it() -> None:
    given = forwarded(
        scope_of(
            (b"host", b"app"),
            (b"connection", b"keep-alive, X-Private"),
            (b"keep-alive", b"timeout=5"),
            (b"te", b"trailers"),
            (b"x-private", b"1"),
            (b"transfer-encoding", b"chunked"),
            (b"x-forwarded-for", b"203.0.113.7"),
            (b"cookie", b"a=b"),
        )
    )
    assert given == [
        (b"host", b"app"),
        (b"cookie", b"a=b"),
        (b"cdn-loop", b"run-gateway"),
        (b"transfer-encoding", b"chunked"),
        (b"x-forwarded-for", b"10.0.0.9"),  # who says otherwise is no proxy that is trusted
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"app"),
    ]
    assert returned(200, [(b"Connection", b"close"), (b"Date", b"now"), (b"Content-Length", b"1"), (b"X", b"y")]) == [
        (b"Content-Length", b"1"),
        (b"X", b"y"),
    ]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_deploy_cuts_what_is_passed_on_without_a_traceback(
    database_of_all: str, application: Application, version: str
) -> None:
    upstream = f"http://127.0.0.1:{application.port}"
    async with Machine.start(database_of_all, env={"GATEWAY_UPSTREAM": upstream}) as machine:
        reader, writer = await asyncio.open_connection("127.0.0.1", machine.port)
        writer.write(f"GET /slow HTTP/{version}\r\nHost: x\r\n\r\n".encode())
        await reader.readuntil(b"data: 1\n\n")
        assert await machine.terminate() == 0
        if version == "1.0":
            with pytest.raises(ConnectionResetError):
                await reader.read()
        else:
            assert b"0\r\n\r\n" not in await reader.read(), "an answer that is cut has no end"
        writer.close()
        assert '"level": "error"' not in machine.log
