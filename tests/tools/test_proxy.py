"""The fault tool itself: each of its faults is what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.tools.proxy import Proxy


@pytest.fixture
async def echo() -> AsyncIterator[str]:
    """A server that says hello and then everything that it is told."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"hello ")
            while piece := await reader.read(1024):
                writer.write(piece)
                await writer.drain()
        except ConnectionResetError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


async def connect(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def test_bytes_and_ends_pass_both_ways(echo: str) -> None:
    async with Proxy(echo) as proxy:
        reader, writer = await connect(proxy)
        writer.write(b"there")
        writer.write_eof()
        assert await reader.read() == b"hello there"
        writer.close()


async def test_a_cut_with_a_reset_is_a_reset_to_the_client(echo: str) -> None:
    async with Proxy(echo) as proxy:
        reader, writer = await connect(proxy)
        assert await reader.readexactly(6) == b"hello "
        assert proxy.cut("reset") == 1
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_a_cut_with_an_end_is_an_end_to_the_client(echo: str) -> None:
    async with Proxy(echo) as proxy:
        reader, writer = await connect(proxy)
        assert await reader.readexactly(6) == b"hello "
        assert proxy.cut("end") == 1
        assert await reader.read() == b""
        writer.close()


async def test_new_connections_go_to_the_new_target(echo: str) -> None:
    async with Proxy("http://127.0.0.1:9") as proxy:
        proxy.target = echo
        reader, writer = await connect(proxy)
        assert await reader.readexactly(6) == b"hello "
        writer.close()


async def test_a_target_that_does_not_listen_resets_the_client() -> None:
    async with Proxy("http://127.0.0.1:9") as proxy:
        reader, writer = await connect(proxy)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_the_connection_ends_right_before_a_pattern_in_parts(echo: str) -> None:
    async with Proxy(echo) as proxy:
        trap = proxy.cut_before(b"event: control")
        reader, writer = await connect(proxy)
        for part in (b"one event: con", b"struct two event: c", b"ontrol three"):
            writer.write(part)
            await writer.drain()
        assert await reader.read() == b"hello one event: construct two "
        await trap.sprung()
        writer.close()


async def test_refusing_resets_new_connections_and_keeps_old_ones(echo: str) -> None:
    async with Proxy(echo) as proxy:
        old_reader, old_writer = await connect(proxy)
        assert await old_reader.readexactly(6) == b"hello "
        with proxy.refusing():
            reader, writer = await connect(proxy)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()
        old_writer.write(b"still here")
        assert await old_reader.readexactly(10) == b"still here"
        old_writer.close()


async def test_in_silence_nothing_passes_and_nothing_is_lost(echo: str) -> None:
    async with Proxy(echo) as proxy:
        reader, writer = await connect(proxy)
        assert await reader.readexactly(6) == b"hello "
        with proxy.silence():
            writer.write(b"later")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await reader.read(1)
        assert await reader.readexactly(5) == b"later"
        writer.close()


async def test_the_address_keeps_the_path_and_the_login() -> None:
    async with Proxy("postgresql://me:secret@127.0.0.1:5432/db?sslmode=disable") as proxy:
        assert proxy.url == f"postgresql://me:secret@127.0.0.1:{proxy.port}/db?sslmode=disable"


async def test_the_target_may_be_a_socket_in_the_file_system(tmp_path: Path) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    path = tmp_path / "socket"
    async with await asyncio.start_unix_server(greet, path), Proxy(f"unix:{path}") as proxy:
        reader, writer = await connect(proxy)
        assert await reader.read() == b"hello"
        writer.close()
