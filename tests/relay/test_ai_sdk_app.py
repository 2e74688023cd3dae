"""A real AI SDK app, `streamText` on a model of the tests, and its page with `useChat`, through two Machines."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from tests.machines import Machine
from tests.node import Script
from tests.relay.clients import PACKAGES, BrowserClients, Order, build_page, comes_back
from tests.tools.proxy import Proxy


def has(name: str, count: int = 1) -> Any:
    return lambda lines: sum(name in line for line in lines) >= count


async def test_a_page_that_is_reloaded_twice_has_the_whole_answer(database_url: str, tmp_path: Path) -> None:
    page = await build_page(tmp_path)
    async with Script.start(PACKAGES / "app.mjs", str(page)) as app, BrowserClients.start() as browser:
        await app.until(has("port"))
        env = {"GATEWAY_UPSTREAM": f"http://127.0.0.1:{app.lines[0]['port']}", "GATEWAY_RELAY": "ai-sdk:/api/chat"}
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
