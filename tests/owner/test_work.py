"""The application is asked what is idle; one that hangs holds up nobody for longer than a moment."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import httpcore
import pytest

from gateway.http.upstream import BadGateway
from gateway.owner import work
from gateway.owner.passing import watched
from gateway.owner.rows import Row

ROW = Row("chat", "/chat/{id}", busy="/chat/{id}/busy")


async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError):
        head = await reader.readuntil(b"\r\n\r\n")
        name = head.split(b"/")[2]
        if name != b"hangs":
            status = {b"works": b"200", b"fails": b"500"}.get(name, b"204")
            writer.write(b"HTTP/1.1 %b x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % status)
        else:
            await reader.read()
    writer.close()


async def test_what_hangs_is_busy_and_the_others_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "MOMENT", 0.5)
    server = await asyncio.start_server(app, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with httpcore.AsyncConnectionPool() as pool:
        asked = work.Asked(ROW, f"http://127.0.0.1:{port}", pool)
        assert set(await asked.busy([b"hangs", b"idle", b"works", b"fails"])) == {b"hangs", b"works", b"fails"}
        server.close()
        with pytest.raises(BadGateway):
            await asked.busy([b"idle"])


def test_connections_between_gateways_end_in_silence() -> None:
    """Nobody acknowledges anything any more: the kernel gives up within about these seconds."""
    with socket.socket() as sock:
        for option in watched(15):
            sock.setsockopt(*option)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        told = {name: sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in NAMES}
    assert told == {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 2, "TCP_USER_TIMEOUT": 15_000}


NAMES = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
