"""Row 9: many readers that read nothing, of events that are as large as may be."""

from __future__ import annotations

import asyncio
import socket

from loadtests.siege.attacks.assault import LOST, Assault

READERS = 800
EVENTS = 6
STAY = 10.0  # seconds that they do not read for


async def read_nothing(assault: Assault) -> None:
    line = assault.line()
    await line.ask("PUT", "/runs/deaf")
    follow = assault.request("GET", "/runs/deaf?offset=now&live=sse", scope="read")
    event = b'"' + b"x" * (assault.orders.event - 2) + b'"'
    told = 0

    async def come(held: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(READERS):
            sock = socket.socket()
            held.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(sock, assault.address())
            await loop.sock_sendall(sock, follow)

    async def wave(_: int) -> None:
        nonlocal told
        held: list[socket.socket] = []
        try:
            await come(held)
            for _ in range(2):
                if told < EVENTS:
                    told += 1
                    assault.seen["large events"] += 1
                    await line.ask("POST", "/runs/deaf", event)
            await assault.rest(STAY)
        except LOST:
            assault.seen["refused"] += 1
        finally:
            assault.seen["readers that read nothing"] += len(held)
            for sock in held:
                sock.close()

    await assault.many(1, wave)
