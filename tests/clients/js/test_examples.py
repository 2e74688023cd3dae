"""The manual's page and agent, as they stand there: in Chromium and Node, through a killed Machine and a deploy."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.clients.conftest import Two
from tests.node import require_node
from tests.tools.browser import Browser
from tests.tools.pages import serve_pages

pytestmark = pytest.mark.asyncio(loop_scope="session")  # as the Machines that these tests share
JS = Path(__file__).parents[3] / "gateway" / "client" / "js"
TEXT = "return document.getElementById('text')?.textContent ?? ''"


@asynccontextmanager
async def agent(folder: Path, url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The manual's agent, beside a copy of the client that a Machine serves."""
    for name in ("agent.mjs", "client.js"):
        shutil.copy(JS / name, folder)
    process = await asyncio.create_subprocess_exec(
        require_node(), "agent.mjs", url, cwd=folder, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_page_and_an_agent_through_a_kill_and_a_deploy(two: Two, tmp_path: Path) -> None:
    run = f"{two.run.path}-typed"
    page = (JS / "page.html").read_bytes().replace(b"http://127.0.0.1:8080", two.proxy.url.encode())
    words = [f"{number} " for number in range(400)]

    async with (
        agent(tmp_path, two.proxy.url + run) as typing,
        serve_pages({"/page.html": page}) as origin,
        Browser.start() as browser,
    ):
        assert typing.stdin is not None and typing.stdout is not None
        await browser.open(f"{origin}/page.html?run={run.removeprefix('/runs/')}")

        async def shown(least: int) -> str:
            text: str = await browser.until(TEXT, lambda text: text.count(" ") >= least)
            return text

        def type_words(some: range) -> None:
            assert typing.stdin is not None
            typing.stdin.write("".join(f"{words[number]}\n" for number in some).encode())

        type_words(range(100))
        await shown(100)
        await two.lose_a()
        type_words(range(100, 200))
        await shown(200)
        await two.a.restart()
        await two.deploy()
        type_words(range(200, 300))
        await shown(300)
        type_words(range(300, 400))
        typing.stdin.close()
        assert (await typing.stdout.read()).decode() == '{"tokens":400}\n'
        await browser.until("return document.title", lambda title: title == "ended")
        assert await browser.run(TEXT) == "".join(words) + " (run_end)"
    async with httpx.AsyncClient(trust_env=False) as http:
        events = (await http.get(two.b.url + run)).json()
    assert [event.get("text") for event in events] == [*words, None]


async def test_onmessage_of_a_page_that_knows_only_the_address(two: Two) -> None:
    """The run does not exist yet when the page asks for it, and then its Machine is killed."""
    run = f"{two.run.path}-later"
    script = f"""
      const text = document.getElementById("text");
      const source = new EventSource("{two.proxy.url}{run}?named=false&wait=60");
      source.onmessage = (event) => {{ text.textContent += JSON.parse(event.data).n + " "; }};
      source.addEventListener("control", (event) => {{
        if (JSON.parse(event.data).streamClosed) {{ source.close(); document.title = "ended"; }}
      }});
    """
    page = f"<!doctype html><p id=text></p><script>{script}</script>".encode()
    async with serve_pages({"/": page}) as origin, Browser.start() as browser:
        await browser.open(f"{origin}/")
        two.run.path = run
        await two.run.create()
        await two.run.count(range(20))
        await browser.until(TEXT, lambda text: text.count(" ") >= 20)
        await two.lose_a()
        await two.run.count(range(20, 40))
        await two.run.close()
        await browser.until("return document.title", lambda title: title == "ended")
        assert await browser.run(TEXT) == "".join(f"{number} " for number in range(40))


async def test_a_page_that_has_a_network_again_looks_at_once(two: Two) -> None:
    page = (JS / "page.html").read_bytes().replace(b"http://127.0.0.1:8080", two.proxy.url.encode())
    async with serve_pages({"/": page}) as origin, Browser.start() as browser:
        await two.run.append({"type": "token", "text": "one "})
        await browser.open(f"{origin}/?run={two.run.path.removeprefix('/runs/')}")
        await browser.until(TEXT, lambda text: text == "one ")
        assert two.proxy.lose() >= 1  # the network is another one: nobody is told
        await two.run.append({"type": "token", "text": "two "})
        await browser.run("dispatchEvent(new Event('online'))")
        await browser.until(TEXT, lambda text: text == "one two ")
