"""Rows 7 and 8: subscriptions that concern everything, and webhooks that lead nowhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from itertools import count

from loadtests.siege.attacks.assault import Assault

HANGING = 70
NOBODY = 40
WATCHERS = 4

_AT = "/v1/stream/__ds/subscriptions/"


def _webhook(pattern: str, url: str) -> bytes:
    return json.dumps({"type": "webhook", "pattern": pattern, "webhook": {"url": url}}).encode()


async def watch_everything(assault: Assault) -> None:
    """Subscriptions to all streams of a tenant that has very many, made and deleted."""
    lines = [assault.line() for _ in range(WATCHERS)]
    await lines[0].ask("PUT", "/v1/stream/wakes")
    asked = json.dumps({"type": "pull-wake", "pattern": "**", "wake_stream": "wakes"}).encode()

    async def watch(number: int) -> None:
        await lines[number].ask("PUT", f"{_AT}all-{number}", asked, scope="control")
        await assault.rest(0.2)
        await lines[number].ask("DELETE", f"{_AT}all-{number}", scope="control")

    await assault.many(WATCHERS, watch)


async def feed_watchers(assault: Assault) -> None:
    """New streams, each of which every one of these subscriptions has to be linked to."""
    line, numbers = assault.line(), count()

    async def create(_: int) -> None:
        await line.ask("PUT", f"/v1/stream/watched/{next(numbers)}", b"[1]")

    await assault.many(1, create)


async def hang_webhooks(assault: Assault) -> None:
    """Endpoints that take a call and answer nothing, or answer 1xx without end."""
    calls: list[asyncio.StreamWriter] = []

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assault.seen["webhooks called"] += 1
        calls.append(writer)
        endless = len(calls) % 8 == 0
        try:
            while not assault.over and await reader.read(65_536):
                while endless and not assault.over:
                    writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 10)
                    await writer.drain()
                    await asyncio.sleep(0.01)
        except OSError:
            return

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await _subscribe(assault, "hanging", HANGING, lambda number: f"http://127.0.0.1:{port}/{number}")
    server.close()


async def name_nobody(assault: Assault) -> None:
    """Endpoints whose names are looked for in vain; the Machines' resolver is one that asks nobody."""
    await _subscribe(assault, "nobody", NOBODY, lambda number: f"https://host-{number}.nobody.invalid/")


async def _subscribe(assault: Assault, name: str, many: int, url: Callable[[int], str]) -> None:
    """So many webhooks, each to a stream of its own, to which an event is appended again and again."""
    line = assault.line()

    async def begin(_: int) -> None:
        for number in range(many):
            await line.ask("PUT", f"/v1/stream/{name}/{number}")
            await line.ask("PUT", f"{_AT}{name}-{number}", _webhook(f"{name}/{number}", url(number)), scope="control")
        while not assault.over:
            for number in range(many):
                await line.ask("POST", f"/v1/stream/{name}/{number}", b"1")
            await assault.rest(1)

    await assault.many(1, begin)
