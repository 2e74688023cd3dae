"""A real AI SDK app, `streamText` on a model of the tests, and its page with `useChat`, through two Machines that have
the settings that `run-gateway init` writes in its folder.
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from gateway.cli import main
from gateway.cli.init import ENV
from tests.machines import Machine
from tests.node import Script
from tests.relay.clients import PACKAGES, BrowserClients, Order, build_page, comes_back
from tests.tools.proxy import Proxy


def has(name: str, count: int = 1) -> Any:
    return lambda lines: sum(name in line for line in lines) >= count


def written_for(folder: Path) -> dict[str, str]:
    for name in ("package.json", "app.mjs"):
        shutil.copy(PACKAGES / name, folder)
    assert CliRunner().invoke(main, ["init", str(folder)]).exit_code == 0
    lines = (folder / ENV).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


async def test_a_page_that_is_reloaded_twice_has_the_whole_answer(database_url: str, tmp_path: Path) -> None:
    page = await build_page(tmp_path)
    async with Script.start(PACKAGES / "app.mjs", str(page)) as app, BrowserClients.start() as browser:
        await app.until(has("port"))
        env = written_for(tmp_path) | {"GATEWAY_UPSTREAM": f"http://127.0.0.1:{app.lines[0]['port']}", "PORT": "0"}
        async with (
            Machine.start(database_url, env=env) as a,
            Machine.start(database_url, env=env) as b,
            Proxy(a.url) as proxy,
        ):
            key = uuid.uuid4().hex
            told = await browser.carry_out(Order("ai-sdk", proxy.url, "hello", key))
            await app.say("one ")
            await told.has("one ")
            proxy.target = b.url
            proxy.cut()
            told = await browser.carry_out(comes_back(told, "reload"))
            await app.say("two ")
            await told.has("one two ")
            proxy.target = a.url
            await b.kill()
            told = await browser.carry_out(comes_back(told, "reload"))
            await app.say("three")
            await app.say(None)
            assert await told.ended() == "finished"
            assert told.text == "one two three"
            assert sum("call" in line for line in app.lines) == 1
