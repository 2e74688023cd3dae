"""Runs of a real Flue app, invoked on its server A, followed through gateway B by the clients that its users have."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.flue.real.house import House
from tests.flue.real.rig import ended, follow, invoke, items
from tests.node import Script, npm_ci

pytestmark = pytest.mark.asyncio(loop_scope="package")
CLIENTS = Path(__file__).parents[2] / "clients"
TICKS = {"n": 8, "intervalMs": 250}


@pytest.mark.parametrize("workflow", ["ticker", "chat"])
async def test_every_client_gets_every_event_once_in_order_and_the_end(house: House, workflow: str) -> None:
    run = await invoke(house.flue_a, workflow, **(TICKS if workflow == "ticker" else {}))
    async with (
        follow(house.b.url, run, "stream") as by_default,
        follow(house.b.url, run, "sse") as by_sse,
        follow(house.b.url, run, "durable") as by_protocol,
        follow(house.a.url, run, "stream") as elsewhere,
    ):
        given = [items(await script.end()) for script in (by_default, by_sse, by_protocol, elsewhere)]
    log = await ended(house.flue_a.url, run)
    assert log[-1]["type"] == "run_end"
    assert given == [log] * 4
    async with follow(house.b.url, run, "events") as events, follow(house.b.url, run, "get") as record:
        assert items(await events.end()) == log
        lines = await record.end()
    async with follow(house.flue_a.url, run, "get") as theirs:
        assert lines == await theirs.end()


async def test_a_browser_follows_with_nothing_but_an_address(house: House) -> None:
    npm_ci(CLIENTS)
    run = await invoke(house.flue_a, "ticker", **TICKS)
    url = f"{house.b.url}/runs/{run}?offset=-1&live=sse"
    async with Script.start(CLIENTS / "browser.mjs", json.dumps({"url": url})) as page:
        lines = await page.end()
    assert items(lines) == await ended(house.flue_b.url, run)
    assert lines[-1] == {"end": "closed"}


# By SSE a client of these throws at a connection that is cut, and the app has to resume: tests/clients.
@pytest.mark.parametrize(("how", "end"), [("stream", "kill"), ("stream", "terminate"), ("sse", "terminate")])
async def test_the_front_end_resumes_when_its_gateway_goes(house: House, how: str, end: str) -> None:
    run = await invoke(house.flue_a, "ticker", n=12, intervalMs=250)
    async with follow(house.proxy.url, run, how) as script:
        await script.until(lambda lines: len(items(lines)) >= 4)
        house.proxy.target = house.a.url
        await (house.b.kill() if end == "kill" else house.b.terminate())
        given = items(await script.end())
    assert given == await ended(house.flue_a.url, run)
    await house.b.restart()


async def test_a_run_whose_flue_server_is_killed_ends_for_its_readers(house: House) -> None:
    run = await invoke(house.flue_b, "ticker", n=1000, intervalMs=250)
    async with follow(house.b.url, run, "stream") as script:
        await script.until(lambda lines: len(items(lines)) >= 3)
        await house.flue_b.kill()
        given = items(await script.end())
    assert given[-1]["type"] == "run_end"
    assert given[-1]["isError"] is True
    assert given[-1]["error"]["name"] == "RunAbandoned"
    assert given == await ended(house.flue_a.url, run), "Flue itself tells the same"
    await house.flue_b.launch()


@pytest.mark.parametrize(("how", "end"), [("stream", "terminate"), ("sse", "kill")])
async def test_a_run_of_a_restarted_flue_server_ends_for_its_readers(house: House, how: str, end: str) -> None:
    run = await invoke(house.flue_b, "ticker", n=1000, intervalMs=250)
    async with follow(house.b.url, run, how) as script:
        await script.until(lambda lines: len(items(lines)) >= 3)
        await (house.flue_b.kill() if end == "kill" else house.flue_b.terminate())
        await house.flue_b.launch()
        given = items(await script.end())
    assert (given[-1]["type"], given[-1]["isError"]) == ("run_end", True)
    assert given == await ended(house.flue_b.url, run), "the new server tells the same"
    async with follow(house.a.url, await invoke(house.flue_b, "ticker", **TICKS), how) as script:
        assert items(await script.end())[-1]["isError"] is False, "and has runs of its own"


async def test_a_rolling_restart_of_everything_is_not_noticed(house: House) -> None:
    runs = [await invoke(house.flue_a, "ticker", n=16, intervalMs=250) for _ in range(2)]
    async with follow(house.proxy.url, runs[0], "stream") as one, follow(house.proxy.url, runs[1], "sse") as two:
        for script in (one, two):
            await script.until(lambda lines: len(items(lines)) >= 3)
        house.proxy.target = house.a.url
        await house.b.restart()
        house.proxy.target = house.b.url
        await house.a.restart()
        await house.flue_b.terminate()  # where no run is: Flue ends its own runs when it is told to stop
        await house.flue_b.launch()
        given = [items(lines) for lines in await asyncio.gather(one.end(), two.end())]
    assert given == [await ended(house.flue_b.url, run) for run in runs]
