"""What many clients hold at once, by whichever way they come: bodies that never end, and connections."""

from __future__ import annotations

import asyncio

import pytest

from gateway.auth.errors import CredentialMalformed, CredentialMissing
from gateway.auth.gate import token_of
from gateway.wire import descriptors
from gateway.wire.transport import SPARE
from tests.servers import PATIENCE, serving, until

JSON = b"Content-Type: application/json\r\n"
WAYS = {
    "an append": b"POST /runs/b HTTP/1.1\r\nHost: h\r\n" + JSON,
    "an append by ASGI": b"POST /runs/b?x=1 HTTP/1.1\r\nHost: h\r\n" + JSON,
    "a creation": b"PUT /runs/b HTTP/1.1\r\nHost: h\r\n" + JSON,
    "a run": b"POST /runs HTTP/1.1\r\nHost: h\r\n" + JSON,
    "a cancel": b"POST /runs/b/cancel HTTP/1.1\r\nHost: h\r\n" + JSON,
}
HEALTH = b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("way", WAYS)
async def test_half_bodies_are_counted_by_whichever_way_they_come(database_url: str, way: str) -> None:
    length = 16_000 if way == "a cancel" else 32_000  # of a cancel no more is taken
    half = WAYS[way] + b"Content-Length: %d\r\n\r\n" % length + b" " * (length - 1_000)
    with serving(database_url, "direct", max_pending=1 << 20) as gateway:
        async with asyncio.timeout(PATIENCE):
            clients = [
                await asyncio.open_connection("127.0.0.1", gateway.port)
                for _ in range(140 if way == "a cancel" else 100)
            ]
            for _, writer in clients:
                writer.write(half)
                await writer.drain()
            told = [asyncio.create_task(reader.readuntil(b"\r\n")) for reader, _ in clients]
            await until(lambda: sum(each.done() for each in told) >= 60)
            assert {each.result() for each in told if each.done()} == {b"HTTP/1.1 429 Too Many Requests\r\n"}
            most = (1 << 20) + (128 << 10)  # give or take what each read brings
            await until(lambda: gateway.app.bodies.held < most)
            for each, (_, writer) in zip(told, clients, strict=True):
                each.cancel()
                writer.transport.abort()
            await until(lambda: not gateway.app.bodies.held)


async def test_what_is_passed_on_takes_nobodys_room(database_url: str) -> None:
    """A body for the application behind the gateway is not kept, however large it is, and however long it takes."""
    arrived = 0

    async def application(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal arrived
        while piece := await reader.read(1 << 16):
            arrived += len(piece)
        writer.close()

    size, most = 3_000_000, 100_000
    async with await asyncio.start_server(application, "127.0.0.1") as behind:
        upstream = f"http://127.0.0.1:{behind.sockets[0].getsockname()[1]}"
        with serving(database_url, "direct", upstream=upstream, max_pending=most) as gateway:
            async with asyncio.timeout(PATIENCE):
                _, uploading = await asyncio.open_connection("127.0.0.1", gateway.port)
                uploading.write(
                    b"POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (size + 1) + bytes(size)
                )
                await until(lambda: arrived >= size)
                assert gateway.app.bodies.held < most
                reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                writer.write(WAYS["a creation"] + b"Content-Length: 2000\r\n\r\n[" + b" " * 998)
                await until(lambda: gateway.app.bodies.held > 0)
                writer.write(b" " * 1_000 + b"]")
                assert await reader.readuntil(b"\r\n") == b"HTTP/1.1 201 Created\r\n"
                for each in (uploading, writer):
                    each.transport.abort()
            await until(lambda: not gateway.app.bodies.held)


def test_room_for_connections_is_what_the_process_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "_limit", lambda: 1_024)
    assert descriptors.room_for_connections(20_000, 10) == 1_024 - 256 - 10
    assert descriptors.room_for_connections(20_000, 10, 2) == (1_024 - 256 - 10) // 2
    assert descriptors.room_for_connections(100, 10) == 100
    assert descriptors.room_for(10_000) == 1_024 - 256


def test_a_long_query_is_looked_through_for_its_token() -> None:
    assert token_of([], b"a&" * 15_000 + b"token=x%2By") == (b"x+y", True)
    with pytest.raises(CredentialMissing):
        token_of([], b"a&" * 15_000)
    with pytest.raises(CredentialMalformed):
        token_of([], b"token=a&" + b"a&" * 15_000 + b"token=b")


async def test_a_flood_of_idle_connections_hides_nobody_from_health(database_url: str) -> None:
    with serving(database_url, "direct", max_connections=20) as gateway:
        connections = gateway.server.server_state.connections
        async with asyncio.timeout(PATIENCE):
            clients = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(300)]
            await until(lambda: len(connections) == 20 + SPARE)
            assert (await gateway.raw(HEALTH)).startswith(b"HTTP/1.1 200 ")
            reader, writer = clients[0]
            writer.write(HEALTH)
            assert (await reader.read()).startswith(b"HTTP/1.1 200 "), "who was there first is there"
            for _, writer in clients:
                writer.transport.abort()
        await until(lambda: not connections)
