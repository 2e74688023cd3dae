"""Published clients and transports, as the manual says to use them, before two Machines of which one is killed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients.conftest import Two
from tests.manual import manual
from tests.node import Script, npm_ci
from tests.tools.browser import Browser

pytestmark = pytest.mark.asyncio(loop_scope="session")  # as the Machines that these tests share
HERE = Path(__file__).parent
JS = HERE.parents[2] / "gateway" / "client" / "js"
SNIPPETS = ("producer.mjs", "aisdk.mjs", "tanstack.mjs")


@asynccontextmanager
async def beside(folder: Path, name: str, *arguments: str, gateway: str) -> AsyncIterator[Script]:
    """A script of this folder, beside copies of the manual's files and of the client, as an app has them."""
    packages = npm_ci(HERE)
    for file in (*(JS / snippet for snippet in SNIPPETS), JS / "client.js", HERE / name):
        shutil.copy(file, folder)
    if not (folder / "node_modules").exists():
        os.symlink(packages, folder / "node_modules")
    async with Script.start(folder / name, *arguments, env={"GATEWAY": gateway}) as script:
        yield script


@asynccontextmanager
async def drive(folder: Path, two: Two, what: str, url: str) -> AsyncIterator[Script]:
    arguments = json.dumps({"what": what, "url": url})
    async with beside(folder, "drive.mjs", arguments, gateway=two.proxy.url) as script:
        yield script


async def bundle(folder: Path) -> None:
    """Puts the page and its script into this folder."""
    esbuild = npm_ci(HERE) / "esbuild" / "bin" / "esbuild"
    options = ["--bundle", "--jsx=automatic", "--log-level=error", f"--outfile={folder / 'page.js'}"]
    building = await asyncio.create_subprocess_exec("node", str(esbuild), "page.jsx", *options, cwd=HERE)
    assert await building.wait() == 0
    (folder / "page.html").write_text("<!doctype html><div id=root></div><script src=/page.js></script>")


def items(lines: list[Any]) -> list[Any]:
    return [item for line in lines for item in line.get("items", [])]


def shown(lines: list[Any], by: str) -> str:
    return next((str(line["text"]) for line in reversed(lines) if line.get("by") == by and "text" in line), "")


async def test_the_producer_of_npm_loses_none_of_400_events(two: Two, tmp_path: Path) -> None:
    url = two.url
    async with drive(tmp_path, two, "producer", url) as writer, drive(tmp_path, two, "reader", url) as reader:
        await writer.say(list(range(200)))
        await reader.until(lambda lines: len(items(lines)) >= 50)
        await two.lose_a()
        await writer.say(list(range(200, 400)))
        await writer.say(None)
        assert (await writer.end())[-1] == {"end": "written"}
        assert items(await reader.end()) == list(range(400))
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(two.b.url + two.run.path)).json() == list(range(400))


async def test_a_chat_of_the_ai_sdk_is_whole_after_a_kill_and_a_reload(two: Two, tmp_path: Path) -> None:
    words = [f"{number} " for number in range(90)]
    async with drive(tmp_path, two, "aisdk", "") as chat:
        await chat.say(words[:30])
        await chat.until(lambda lines: shown(lines, "page") == "".join(words[:30]))
        await two.lose_a()
        await chat.say(words[30:60])
        await chat.until(lambda lines: any(line.get("by") == "page" and "error" in line for line in lines))
        again = "page after a reload"
        await chat.until(lambda lines: shown(lines, again) == "".join(words[:60]))
        await chat.say(words[60:])
        await chat.say(None)
        lines = await chat.end()
    assert lines[0] == {"before": None}, "nothing is under way: 204"
    assert shown(lines, again) == "".join(words)
    assert lines[-1] == {"by": again, "end": "finished"}


async def test_use_chat_resumes_in_chromium_after_a_kill(two: Two, tmp_path: Path) -> None:
    """The real hook with `resume: true`: its page loses its Machine, and is loaded again while the answer goes on."""
    words = [f"{number} " for number in range(60)]
    text = "return document.getElementById('text')?.textContent ?? ''"
    status = "return document.getElementById('status')?.textContent ?? ''"
    await bundle(tmp_path)
    async with beside(tmp_path, "app.mjs", str(tmp_path), gateway=two.proxy.url) as app, Browser.start() as browser:
        await app.until(lambda lines: bool(lines))
        await browser.open(f"http://127.0.0.1:{app.lines[0]['port']}/")
        await browser.until(status, lambda said: said == "ready")
        await browser.run("document.querySelector('button').click()")
        for word in words[:20]:
            await app.say(word)
        await browser.until(text, lambda shown: shown == "".join(words[:20]))
        await two.lose_a()
        for word in words[20:40]:
            await app.say(word)
        await browser.until(status, lambda said: said.startswith("error"))
        await browser.reload()
        await browser.until(text, lambda shown: shown == "".join(words[:40]))
        last: list[str | None] = [*words[40:], None]
        for each in last:
            await app.say(each)
        await browser.until(text, lambda shown: shown == "".join(words))
        await browser.until(status, lambda said: said == "ready")


async def test_a_chat_of_tanstack_goes_on_where_it_was_after_a_kill(two: Two, tmp_path: Path) -> None:
    url = f"{two.proxy.url}/v1/stream/chats/{two.run.path.rpartition('/')[2]}"
    words = [f"{number} " for number in range(60)]

    def deltas(lines: list[Any]) -> list[Any]:
        return [line["delta"] for line in lines if line.get("type") == "TEXT_MESSAGE_CONTENT"]

    async with drive(tmp_path, two, "tanstack", url) as chat:
        await chat.say(words[:30])
        await chat.until(lambda lines: len(deltas(lines)) >= 31)
        await two.lose_a()
        await chat.say(words[30:])
        await chat.say(None)
        lines = await chat.end()
    assert deltas(lines) == ["hello", *words]
    assert lines[-1] == {"end": "answered"}


@pytest.mark.parametrize("name", SNIPPETS)
async def test_the_manual_shows_the_very_files(name: str) -> None:
    text = (JS / name).read_text()
    assert f"\n{text}```" in manual("client/js")
