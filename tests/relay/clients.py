"""The published clients of all dialects behind one form: asked, followed, closed, and brought back as their apps do.

Those of npm run in one Node process (packages/clients.mjs), those of PyPI in this one, useChat in Chromium.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from tests.node import Script, npm_ci
from tests.relay import python_clients
from tests.relay.agents import PATIENCE
from tests.tools.browser import Browser

PACKAGES = Path(__file__).parent / "packages"
Deed = Literal["ask", "reload", "again"]


@dataclass(frozen=True)
class Order:
    """What a client is to do at `url`. `ask`: a new question. `reload`: a new page, which knows `key` and nothing of
    the answer. `again`: the same app after an error, which knows `cursor` too. `resume`: whether the page's app is
    told that its server can resume.
    """

    client: str
    url: str
    prompt: str
    key: str
    do: Deed = "ask"
    cursor: int | None = None
    resume: bool = True


class Told:
    """What a client has told of an answer. `end`: `finished`, when its dialect said that the answer is whole; `ended`,
    when nothing more came and the client did not mind; `stopped`; or `error: …`. `key`: by which it comes back.
    """

    def __init__(self, order: Order, close: Callable[[], Any]) -> None:
        self.order = order
        self.key = order.key
        self.text = ""
        self.cursor: int | None = None
        self.end: str | None = None
        self._close = close
        self._news = asyncio.Event()

    def hear(self, line: dict[str, Any]) -> None:
        """One line of packages/clients.mjs, or what says the same."""
        self.text += line.get("text") or ""
        self.key = line.get("key") or self.key
        self.cursor = line.get("cursor") or self.cursor
        self.end = line.get("end") or self.end
        self._news.set()

    async def has(self, text: str) -> None:
        """Waits until the client has been given this text, and nothing else."""
        await self._until(lambda: len(self.text) >= len(text) or self.end is not None)
        assert self.text == text, f"{self.order.client} has {_short(self.text)} and not {_short(text)}; {self.end}"

    async def ended(self) -> str:
        """Waits until the client gives up or has the whole; returns how it ended."""
        await self._until(lambda: self.end is not None)
        assert self.end is not None
        return self.end

    def close(self) -> None:
        """The page is closed, the program ended: the client tells nothing more."""
        self._close()

    async def _until(self, condition: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise TimeoutError(f"{self.order.client} has come no further than {_short(self.text)}") from None


class Clients(Protocol):
    """Carries out orders of one or several clients."""

    async def carry_out(self, order: Order) -> Told: ...


class NodeClients:
    """Those of packages/clients.mjs."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._heard = 0
        self._told: dict[str, Told] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls) -> AsyncIterator[NodeClients]:
        npm_ci(PACKAGES)
        async with Script.start(PACKAGES / "clients.mjs") as script:
            clients = cls(script)
            listening = asyncio.create_task(clients._listen())
            try:
                yield clients
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)

    async def carry_out(self, order: Order) -> Told:
        name = uuid.uuid4().hex
        told = self._told[name] = Told(order, lambda: asyncio.ensure_future(self._say({"run": name, "do": "close"})))
        await self._say({"run": name, **order.__dict__})
        return told

    async def _say(self, line: dict[str, Any]) -> None:
        await self._script.say(line)

    async def _listen(self) -> None:
        while True:
            await self._script.until(lambda lines: len(lines) > self._heard, timeout=3600)
            for line in self._script.lines[self._heard :]:
                if "run" in line:
                    self._told[line["run"]].hear(line)
                self._heard += 1


class PythonClients:
    """Those of python_clients.py, and the plain ones there."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls) -> AsyncIterator[PythonClients]:
        python_clients.require()
        clients = cls()
        try:
            yield clients
        finally:
            for task in clients._tasks:
                task.cancel()
            await asyncio.gather(*clients._tasks, return_exceptions=True)

    async def carry_out(self, order: Order) -> Told:
        told = Told(order, lambda: task.cancel())
        task = asyncio.create_task(self._follow(told))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return told

    async def _follow(self, told: Told) -> None:
        try:
            end = await python_clients.CLIENTS[told.order.client](told.order, told.hear)
        except Exception as error:  # noqa: BLE001  whatever a client raises is how it ended
            end = f"error: {type(error).__name__}: {error}"
        told.hear({"end": end})


class Page(Told):
    """The page of packages/page.jsx: `text` and `end` are looked up in it. The question is asked by opening it."""

    def __init__(self, order: Order, browser: Browser) -> None:
        super().__init__(order, lambda: None)
        self.browser = browser
        self._version = 0  # of the text, which is another one when it changes and does not only grow

    async def _until(self, condition: Callable[[], bool]) -> None:
        def look(chat: Any) -> bool:
            if chat is None:
                return False
            self.text = chat["text"] if chat["version"] != self._version else self.text + chat["text"]
            self._version = chat["version"]
            ends = {"ready": "finished", "error": f"error: {chat['error']}"}
            self.end = ends.get(chat["status"]) if self.text or chat["status"] == "error" else None
            return condition()

        await self.browser.until("return window.look?.(...arguments)", look, lambda: (self._version, len(self.text)))


class BrowserClients:
    """useChat in Chromium: one page at a time. A reload is one; `again` is the page coming to the front."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls) -> AsyncIterator[BrowserClients]:
        async with Browser.start() as browser:
            yield cls(browser)

    async def carry_out(self, order: Order) -> Told:
        match order.do:
            case "ask":
                await self.browser.open(
                    f"{order.url}/page.html?id={order.key}&prompt={order.prompt}&resume={order.resume}"
                )
            case "reload":
                await self.browser.reload()
            case "again":
                turns = await self.browser.run("return window.turns")
                await self.browser.run("document.dispatchEvent(new Event('visibilitychange'))")
                await self.browser.until("return window.turns", lambda now: now > turns)
        return Page(order, self.browser)


async def build_page(folder: Path) -> Path:
    """Puts page.html and its script into this folder, which an app may serve."""
    modules = npm_ci(PACKAGES)
    await (
        await asyncio.create_subprocess_exec(
            "node",
            str(modules / "esbuild" / "bin" / "esbuild"),
            "page.jsx",
            "--bundle",
            "--jsx=automatic",
            "--log-level=error",
            f"--outfile={folder / 'page.js'}",
            cwd=PACKAGES,
        )
    ).wait()
    (folder / "page.html").write_bytes((PACKAGES / "page.html").read_bytes())
    return folder


def comes_back(told: Told, do: Deed, url: str | None = None) -> Order:
    """The order by which the same app comes back for this answer."""
    cursor = told.cursor if do == "again" else None
    return replace(told.order, do=do, key=told.key, cursor=cursor, url=url or told.order.url)


def _short(text: str) -> str:
    shown = json.dumps(text, ensure_ascii=False)
    return shown if len(shown) < 200 else f"{shown[:100]} … {shown[-60:]} ({len(text)} characters)"
