"""A real Flue 2.x app, and what its users do with conversations: send, abort, observe."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.node import Script
from tests.tools import flue_app

APP = Path(__file__).parent / "app"
MOUNT = "/agents/chat"


def built() -> Path:
    """The app's folder, with its packages and its server. Skips the test where they cannot be had."""
    return flue_app.built(APP, "node_modules/.bin/vite", "build")


def ticks(count: int, interval: float = 0.1) -> str:
    """A message upon which a tool is called so many times, one after the other; each takes `interval` seconds."""
    return json.dumps({"ticks": count, "intervalMs": round(interval * 1000)})


@asynccontextmanager
async def following(url: str) -> AsyncIterator[AsyncIterator[Any]]:
    """The chunks of one response, which follows a conversation from its start."""

    async def chunks(response: httpx.Response) -> AsyncIterator[Any]:
        async for line in response.aiter_lines():
            if line.startswith("data:["):
                for chunk in json.loads(line.removeprefix("data:")):
                    yield chunk

    async with (
        httpx.AsyncClient(trust_env=False, timeout=120) as http,
        http.stream("GET", f"{url}?view=updates&offset=-1&live=sse") as response,
    ):
        yield chunks(response)


async def until_settled(chunks: AsyncIterator[Any]) -> list[Any]:
    """Those up to the first settlement; fewer, if the response ends before."""
    found = []
    async for chunk in chunks:
        found.append(chunk)
        if chunk["type"] == "submission-settled":
            break
    return found


class Clients:
    """Front ends by @flue/sdk, in one Node process: each thing that is told has a tag, which its lines have too."""

    def __init__(self, script: Script) -> None:
        self._script = script

    @classmethod
    @asynccontextmanager
    async def start(cls) -> AsyncIterator[Clients]:
        async with Script.start(built() / "clients.mjs") as script:
            await script.until(bool)
            yield cls(script)

    def said(self, tag: str, kind: str) -> list[Any]:
        """What the lines of this kind hold, in their order."""
        return [line[kind] for line in self.lines(tag) if kind in line]

    def lines(self, tag: str) -> list[dict[str, Any]]:
        return [line for line in self._script.lines if line["tag"] == tag]

    async def until(self, tag: str, kind: str, count: int = 1, timeout: float = 60) -> list[Any]:
        """Waits for so many lines of this kind."""
        await self._script.until(lambda _: len(self.said(tag, kind)) >= count, timeout)
        return self.said(tag, kind)

    async def observe(self, tag: str, url: str, live: str = "sse") -> None:
        """Follows a conversation, as useFlueAgent of @flue/react does. It has been sent to before."""
        await self._script.say({"do": "observe", "tag": tag, "url": url, "live": live})

    async def send(self, tag: str, url: str, body: str) -> dict[str, Any]:
        """The receipt."""
        receipt: dict[str, Any] = await self._called({"do": "send", "tag": tag, "url": url, "body": body}, "sent")
        return receipt

    async def abort(self, tag: str, url: str) -> bool:
        """Whether there was something to abort."""
        return bool(await self._called({"do": "abort", "tag": tag, "url": url}, "aborted"))

    async def _called(self, asked: dict[str, Any], kind: str) -> Any:
        before = len(self.said(asked["tag"], kind))
        await self._script.say(asked)
        await self._script.until(lambda _: self._answered(asked["tag"], kind, before))
        assert not self.said(asked["tag"], "failed"), self.lines(asked["tag"])
        return self.said(asked["tag"], kind)[-1]

    def _answered(self, tag: str, kind: str, before: int) -> bool:
        return len(self.said(tag, kind)) > before or bool(self.said(tag, "failed"))
