"""What a connection may do to a POST that is answered past ASGI: both protocol classes have to agree on all of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket

import pytest

from gateway.auth.principal import Principal
from gateway.wire.transport import DirectProtocol
from tests.http.answers import JSON
from tests.servers import Client, Running, body_of, serving, until

TIMEOUT = 60


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: h", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


async def content(client: Client, path: str) -> list[object]:
    messages: list[object] = (await client("GET", path)).json()
    return messages


async def test_pipelined_appends_are_applied_and_answered_in_order(client: Client, gateway: Running, path: str) -> None:
    await client("PUT", path, headers=JSON)
    requests = [post(path, b"%d" % n) for n in range(20)]
    last = f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode()
    answers = await gateway.raw(b"".join(requests) + last)
    assert answers.count(b"HTTP/1.1 204 ") == 20
    offsets = [line.rpartition(b"_")[2] for line in answers.split(b"\r\n") if line.startswith(b"stream-next-offset")]
    assert [int(offset) for offset in offsets] == [*range(1, 21), 20]
    assert json.loads(answers.rpartition(b"\r\n\r\n")[2]) == list(range(20))


async def test_a_body_in_many_pieces_is_one_append(client: Client, gateway: Running, path: str) -> None:
    await client("PUT", path, headers=JSON)
    message = b'"%b"' % (b"x" * 90_000)
    request = post(path, message, "Connection: close")
    async with asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        for start in range(0, len(request), 7_000):
            writer.write(request[start : start + 7_000])
            await writer.drain()
        assert (await reader.read()).startswith(b"HTTP/1.1 204 ")
        writer.close()
    assert await content(client, path) == ["x" * 90_000]


async def test_a_client_that_asks_first_is_told_to_go_on(client: Client, gateway: Running, path: str) -> None:
    await client("PUT", path, headers=JSON)
    head, _, body = post(path, b"[1,2]", "Expect: 100-continue", "Connection: close").partition(b"\r\n\r\n")
    async with asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(head + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.read()).startswith(b"HTTP/1.1 204 ")
        writer.close()
    assert await content(client, path) == [1, 2]


async def test_a_refused_append_leaves_its_connection_usable(client: Client, gateway: Running, path: str) -> None:
    await client("PUT", path, headers=JSON)
    answers = await gateway.raw(
        post(path, b"not json") + post(path + "-missing", b"1") + post(path, b"1", "Connection: close")
    )
    assert re.findall(rb"HTTP/1.1 ([0-9]+) ", answers) == [b"400", b"404", b"204"]
    assert await content(client, path) == [1]


async def test_a_client_that_leaves_before_its_answer_has_appended(client: Client, gateway: Running, path: str) -> None:
    await client("PUT", path, headers=JSON)
    async with asyncio.timeout(TIMEOUT):
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(post(path, b"1"))
        await writer.drain()
        writer.close()
        while await content(client, path) != [1]:  # noqa: ASYNC110  the client has gone: nobody tells
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("requests", [0, 3])
async def test_an_idle_connection_is_closed_after_the_keep_alive_time(database_url: str, requests: int) -> None:
    with serving(database_url, "direct") as gateway:
        gateway.server.config.timeout_keep_alive = 1
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            for _ in range(1 + requests):
                writer.write(post("/runs/none", b"1"))
                await reader.readuntil(b"}}")
            assert await reader.read() == b""
            writer.close()
        await until(lambda: not gateway.server.server_state.connections)


async def test_an_early_answers_connection_is_closed_after_its_request(
    database_url: str,
) -> None:
    with serving(database_url, "direct", max_body=1_000) as gateway:
        gateway.server.config.timeout_keep_alive = 1
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            request = post("/runs/none", b"1" * 100_000)
            writer.write(request[:50_000])
            assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 413 ")
            writer.write(request[50_000:])
            assert await reader.read() == b""
            writer.close()


async def test_trailers_are_no_headers(client: Client, gateways: dict[str, Running], path: str) -> None:
    """RFC 9110 §6.5.1: what stands behind a body may not pass for what was said before it."""
    await client("PUT", path, headers=JSON)
    head = post(path, b"", "Transfer-Encoding: chunked", "Connection: close").replace(b"Content-Length: 0\r\n", b"")
    for body in (b"1", b"[%b]" % (b" " * 50_000 + b"1")):  # the one is answered past ASGI
        chunks = b"%x\r\n%b\r\n0\r\nStream-Closed: true\r\nContent-Type: text/plain\r\n\r\n" % (len(body), body)
        assert (await gateways["direct"].raw(head + chunks)).startswith(b"HTTP/1.1 204 ")
    answer = await client("GET", path)
    assert (answer.json(), "stream-closed" in answer.headers) == ([1, 1], False)


async def test_who_asks_and_does_not_read_is_not_answered_without_end(database_url: str) -> None:
    count = 2_000
    padding = b"x" * 450  # a megabyte of requests, and more of answers than sockets of this size hold
    request = (
        b"POST /runs/none HTTP/1.1\r\nHost: h\r\nX: %b\r\nContent-Type: a/b\r\nContent-Length: 1\r\n\r\n1" % padding
    )
    with serving(database_url, "direct") as gateway:
        reader, writer = await _small(gateway.port, b"")
        await until(lambda: bool(gateway.server.server_state.connections))
        (connection,) = gateway.server.server_state.connections
        assert isinstance(connection, DirectProtocol)
        most = [0, 0]

        async def watch() -> None:
            while True:
                size = connection.transport.get_write_buffer_size()
                most[:] = max(most[0], size), max(most[1], connection.own)
                await asyncio.sleep(0.01)

        watching = asyncio.create_task(watch())
        async with asyncio.timeout(240):
            writer.write(request * count)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(until(lambda: connection.flow.read_paused), 5)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            for _ in range(count):
                assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 404 ")
        watching.cancel()
        assert most[0] < 1 << 10, "bytes of answers: of one"
        assert most[1] < 400_000, "bytes of requests: those of one read, which is 256 kB, and a few more"
        writer.close()


@pytest.mark.parametrize("query", ["", "?offset=-1&live=sse"])
async def test_who_reads_nothing_is_cut_and_who_reads_slowly_is_not(database_url: str, query: str) -> None:
    events = json.dumps(["x" * 9_000] * 900).encode()  # more than a socket holds
    with serving(database_url, "direct", send_timeout=4, keep_alive=60, page_bytes=16 << 20) as gateway:
        await gateway.raw(post("/runs/long", b"", "Connection: close").replace(b"POST", b"PUT"))
        await gateway.raw(post("/runs/long", events, "Connection: close"))
        request = f"GET /runs/long{query} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
        connections = gateway.server.server_state.connections
        (idle, idle_writer), (slow, slow_writer) = [await _small(gateway.port, request) for _ in range(2)]
        try:
            async with asyncio.timeout(TIMEOUT):
                began = asyncio.get_running_loop().time()
                while len(connections) > 1 or asyncio.get_running_loop().time() < began + 7:
                    assert await slow.read(4_000)  # far too little for the server to be told that it may write again
                    await asyncio.sleep(0.02)
                assert len(connections) == 1
                with pytest.raises(ConnectionResetError):
                    await idle.read(-1)
        finally:
            for writer in (idle_writer, slow_writer):
                writer.transport.abort()
        await until(lambda: not connections)


async def _small(port: int, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that takes a few kilobytes of what comes before anybody reads."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    reader, writer = await asyncio.open_connection(sock=sock, limit=2_048)
    writer.write(request)
    return reader, writer


async def test_an_earlier_requests_timer_closes_no_connection_in_use(database_url: str) -> None:
    with serving(database_url, "direct") as gateway:
        gateway.server.config.timeout_keep_alive = 3
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            began = asyncio.get_running_loop().time()
            while asyncio.get_running_loop().time() < began + 4.5:
                writer.write(post("/runs/none", b"1"))
                assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 404 ")
                await asyncio.sleep(0.3)  # a client that is slow, and not idle
            writer.close()


async def test_connections_over_the_limit_are_503_and_none_is_evicted(database_url: str) -> None:
    with serving(database_url, "direct", max_connections=2) as gateway:
        async with asyncio.timeout(TIMEOUT):
            first = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(2)]
            for reader, writer in first:
                writer.write(post("/runs/none", b"1"))
                assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 404 ")
            refused = await gateway.get_raw("/runs/none")
            assert refused.startswith(b"HTTP/1.1 503 ")
            assert b"too_many_connections" in refused
            assert b"retry-after: " in refused
            later = await gateway.get_raw("/api/chat/c1/stream", "accept: text/event-stream")
            assert later == b"", "whose answer would be relayed takes no end for the whole, and comes back from none"
            assert (await gateway.get_raw("/health")).startswith(b"HTTP/1.1 200 "), "a full Machine is not a sick one"
            for reader, writer in first:
                writer.write(post("/runs/none", b"1"))
                assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 404 "), "who is there goes on"
                writer.close()
        await until(lambda: not gateway.server.server_state.connections)
        assert (await gateway.get_raw("/runs/none")).startswith(b"HTTP/1.1 404 ")


def test_the_protocol_class_overrides_what_uvicorn_still_has() -> None:
    """A uvicorn that has moved these would make the class answer in ways that nobody tested."""
    for name in ("_start_asgi_task", "on_body", "on_message_complete", "on_response_complete", "pause_writing"):
        assert any(name in vars(base) for base in DirectProtocol.__mro__[1:]), name


@pytest.mark.parametrize("answered", [False, True])
async def test_a_fault_of_ours_is_told_as_one_and_logged(
    database_url: str, path: str, answered: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> Principal:
        raise KeyError("a secret")

    before = b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n" if answered else b""
    with serving(database_url, "direct") as gateway:
        gateway.app._door.admit = fail  # type: ignore[method-assign, assignment]
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            if before:
                writer.write(before)
                await reader.readuntil(b"}")
            writer.write(post(path, b"1"))
            _, answer = (await reader.read()).split(b"HTTP/1.1 ")
            writer.close()
    assert answer.startswith(b"500 ")
    assert b"\r\nconnection: close\r\n" in answer
    assert json.loads(body_of(answer))["error"]["type"] == "internal_error"
    assert b"secret" not in answer
    (record,) = [record for record in caplog.records if record.name.startswith("gateway.wire")]
    assert record.exc_info and record.exc_info[0] is KeyError


@pytest.mark.parametrize("target", ["//[", "http://", "/ä", "*"])
async def test_a_target_that_is_none_is_the_clients_fault(gateway: Running, protocol: str, target: str) -> None:
    answer = await gateway.get_raw(target)
    assert int(answer.split()[1]) in (400, 404), answer
