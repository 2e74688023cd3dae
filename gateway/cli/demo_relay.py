"""`run-gateway demo --relay`: a chat before an agent server that only streams is reloaded, and a Machine killed.

Everything is real: processes, Postgres, HTTP, SIGKILL. The agent server is a few lines below, and knows nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Final

import click
import httpx

from gateway.process.exit_codes import Failure
from gateway.process.machine import Machine

RELAY: Final = "ai-sdk:/api/chat"
TEXT: Final = (
    "Each word of this answer is written down before you see it. So when you reload the page, or the Machine that you"
    " read from is killed, another one goes on with it, and the model is asked only once."
)
ANSWER: Final = TEXT.split()
PACE: Final = 0.2  # seconds between two words
_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


class Agent:
    """An agent server that answers each POST with the same words, one after the other. `asked`: how often it was."""

    def __init__(self, speed: float) -> None:
        self.asked = 0
        self._pace = PACE / speed

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Its address, while the block runs."""
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            writer.write(_HEAD)
            for word in ANSWER:
                writer.write(b"data: %b\n\n" % json.dumps({"type": "text-delta", "delta": word}).encode())
                await writer.drain()
                await asyncio.sleep(self._pace)
            writer.write(b"data: [DONE]\n\n")
        writer.close()


async def show(a: Machine, b: Machine, agent: Agent) -> None:
    """The chat, reloaded twice. Raises Failure where it does not come back whole."""
    third = len(ANSWER) // 3
    async with httpx.AsyncClient(timeout=60) as http:
        click.echo("\nA page asks at B:")
        await _read(http, "POST", f"{b.url}/api/chat", third)
        click.echo("\nIt is reloaded, and comes to A:")
        await _read(http, "GET", f"{a.url}/api/chat/demo/stream", 2 * third)
        await a.kill()
        click.echo("\nA is killed with SIGKILL. The page comes to B again:")
        words = await _read(http, "GET", f"{b.url}/api/chat/demo/stream", None)
    click.echo(f"\nwords {len(ANSWER)}, read {len(words)}; the agent server was asked {agent.asked} time(s)")
    if words != ANSWER or agent.asked != 1:
        raise Failure("the answer did not come back as it was")


async def _read(http: httpx.AsyncClient, method: str, url: str, most: int | None) -> list[str]:
    """The words of an answer, from its start; leaves after `most` of them."""
    words: list[str] = []
    body = {"id": "demo", "messages": []} if method == "POST" else None
    async with http.stream(method, url, json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                words.append(json.loads(line[6:])["delta"])
                click.echo(f" {words[-1]}", nl=False)
            if len(words) == most:
                break
    click.echo()
    return words
