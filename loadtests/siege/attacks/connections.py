"""Rows 5, 12 and 13: connections that ask without end, ask nothing, ask slowly, or ask what cannot be answered."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress

from loadtests.siege.attacks.assault import LOST, Assault

PIPELINES = 8
BEHIND = 10_000  # requests
HEAVY = "x" * 2_900  # a header's value
WAITING = 520  # connections of a wave that leaves
IDLE = 1_500  # connections
SLOW = 200
DROP = 0.5  # seconds between two bytes of theirs
PARAMETERS = "&a" * 15_000
CALLBACK = 1_000_000  # bytes


async def pipeline(assault: Assault) -> None:
    """Sends BEHIND requests of 3 kB on each connection, and reads no answer."""
    piece = assault.request("GET", "/health", x=HEAVY) * 50

    async def send(_: int) -> None:
        _reader, writer = await assault.connect()
        try:
            async with asyncio.timeout(5):
                for _ in range(BEHIND // 50):
                    writer.write(piece)
                    await writer.drain()
                    assault.seen["requests sent"] += 50
        finally:
            assault.seen["connections"] += 1
            writer.transport.abort()

    await assault.many(PIPELINES, send)


async def wait_and_leave(assault: Assault) -> None:
    """A long-poll that waits, another request behind it, and nobody there any more."""
    await assault.line().ask("PUT", "/runs/waited-for")
    waits = assault.request("GET", "/runs/waited-for?offset=now&live=long-poll", scope="read")

    async def wave(_: int) -> None:
        for _ in range(WAITING):
            _reader, writer = await assault.connect()
            writer.write(waits + waits)
            with suppress(*LOST):
                await writer.drain()
            writer.close()
        assault.seen["connections that left"] += WAITING
        await assault.rest(1)

    await assault.many(1, wave)


async def sit(assault: Assault) -> None:
    """Connections that say nothing."""
    held: list[socket.socket] = []
    with suppress(OSError):
        while len(held) < IDLE and not assault.over:
            sock = socket.socket()
            held.append(sock)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, assault.address())
    assault.seen["idle connections"] += len(held)
    await assault.rest(assault.left)
    for sock in held:
        sock.close()


async def trickle(assault: Assault) -> None:
    """Heads and bodies that come a byte at a time."""
    body = assault.request("POST", "/runs/waited-for", scope="write", content_length="1000000")
    head = assault.request("GET", "/health", x=HEAVY)

    async def drop(number: int) -> None:
        _reader, writer = await assault.connect()
        try:
            data, begun = (body + bytes(1000), len(body) + 10) if number % 2 else (head, 20)
            writer.write(data[:begun])
            for byte in data[begun : begun + 600]:
                await assault.rest(DROP)
                if assault.over:
                    return
                writer.write(bytes([byte]))
                await writer.drain()
        finally:
            assault.seen["connections that trickle"] += 1
            writer.transport.abort()

    await assault.many(SLOW, drop)


async def lengthen(assault: Assault) -> None:
    """A token, and as many parameters as a head may hold."""
    lines = [assault.line() for _ in range(4)]

    async def ask(number: int) -> None:
        await lines[number].ask("GET", f"/runs/waited-for?token={PARAMETERS}", scope="")

    await assault.many(4, ask)


async def call_back(assault: Assault) -> None:
    """Large reports of a wake by who has no token for it."""
    lines = [assault.line() for _ in range(4)]
    body = json.dumps({"wake_id": "w", "generation": 1, "acks": [], "x": "x" * CALLBACK}).encode()

    async def ask(number: int) -> None:
        await lines[number].ask("POST", "/v1/stream/__ds/subscriptions/worker/callback", body, scope="")

    await assault.many(4, ask)


async def pretend(assault: Assault) -> None:
    """Each request of another client's, as a proxy would say."""
    lines = [assault.line() for _ in range(4)]

    async def ask(number: int) -> None:
        address = ".".join(str(assault.rng.randrange(1, 255)) for _ in range(4))
        await lines[number].ask("GET", "/runs/waited-for", scope="read", x_forwarded_for=address)

    await assault.many(4, ask)


async def babble(assault: Assault) -> None:
    """Requests that are none, and clients that half-close while they are answered."""
    post = assault.request("POST", "/runs/babbled", b"", scope="write", transfer_encoding="chunked")
    post = post.replace(b"content-length: 0\r\n", b"")
    said = [
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /runs/babbled HTTP/1.1\r\n\r\n",
        post + b"ZZZ\r\n",
        post + b"2\r\nabcdef\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        assault.request("GET", "/runs/babbled?offset=-1&live=sse", scope="read") + b"\0\0\r\n\r\n",
        assault.request("GET", "/runs/babbled?offset=-1&live=sse", scope="read"),
        assault.request("POST", "/runs/babbled", b"[1,", scope="write"),
        assault.request("GET", "/runs/babbled", scope="read", authorization="Bearer none"),
    ]
    await assault.line().ask("PUT", "/runs/babbled")

    async def say(number: int) -> None:
        reader, writer = await assault.connect()
        try:
            writer.write(assault.rng.choice(said))
            if number % 2 and writer.can_write_eof():
                writer.write_eof()
            async with asyncio.timeout(1):
                await reader.read(1000)
        finally:
            assault.seen["babble"] += 1
            writer.transport.abort()

    await assault.many(16, say)
