"""A browser's EventSource follows a run with nothing but an address: no headers, no code that resumes.

It reconnects by itself, always to the same address, whatever its `offset` says; Last-Event-ID is all that
tells the gateway where it stands. It takes an event as given once the empty line after it is there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import StartTwo, Two
from tests.node import Script, npm_ci
from tests.tools.proxy import End

pytestmark = pytest.mark.asyncio(loop_scope="session")  # as the Machines that these tests share
HERE = Path(__file__).parent


@pytest.fixture(autouse=True, scope="module")
def packages() -> None:
    npm_ci(HERE)


def browse(url: str) -> Any:
    return Script.start(HERE / "browser.mjs", json.dumps({"url": f"{url}?offset=-1&live=sse"}))


def items(lines: list[Any]) -> list[Any]:
    return [line["item"] for line in lines if "item" in line]


def has_items(least: int) -> Any:
    return lambda lines: len(items(lines)) >= least


def has_opened(times: int) -> Any:
    return lambda lines: {"open": times} in lines


async def test_a_run_is_followed_from_its_start_to_its_end(two: Two) -> None:
    run = two.run
    await run.count(range(10))
    async with browse(two.url) as page:
        await page.until(has_items(10))
        await run.append("two", "at once")
        await page.until(has_items(12))
        await run.close({"text": "\r\n\u2028 🏃"})
        lines = await page.end()
    assert items(lines) == run.log
    assert lines[-1] == {"end": "closed"}
    assert [line for line in lines if "interrupted" in line] == []


async def test_a_finished_run_is_read_to_its_end(two: Two) -> None:
    await two.run.count(range(10))
    await two.run.close()
    async with browse(two.url) as page:
        lines = await page.end()
    assert items(lines) == two.run.log
    assert lines[-1] == {"end": "closed"}


async def test_a_run_that_does_not_exist_is_an_error_without_a_retry(two: Two) -> None:
    two.run.path += "-nonexistent"
    async with browse(two.url) as page:
        lines = await page.end()
    assert len(lines) == 1
    assert lines[0]["end"].startswith("failed: 404")


async def test_connections_at_their_maximum_age_lose_nothing(start_two: StartTwo) -> None:
    two = await start_two(GATEWAY_SSE_MAX_AGE="1")
    run = two.run
    await run.append("before")
    async with browse(two.url) as page:
        for connection in range(1, 4):
            await run.append({"while": connection})
            await page.until(has_opened(connection))
            await run.append({"in": connection})
            await page.until(has_items(len(run.log)))
        await run.close()
        lines = await page.end()
    assert items(lines) == run.log
    assert lines[-1] == {"end": "closed"}


async def test_a_page_resumes_at_another_machine_after_a_kill(two: Two) -> None:
    run = two.run
    await run.count(range(10))
    async with browse(two.url) as page:
        await page.until(has_items(10))
        await run.count(range(10, 30))
        await page.until(has_items(11))
        await two.lose_a()
        await run.count(range(30, 50))
        await run.close({"last": True})
        lines = await page.end()
    assert has_opened(2)(lines)
    assert items(lines) == run.log
    assert lines[-1] == {"end": "closed"}


async def test_a_deploy_of_all_machines_loses_and_repeats_nothing(two: Two) -> None:
    run = two.run
    await run.count(range(10))
    async with browse(two.url) as page:
        await page.until(has_items(10))
        await two.deploy()
        await run.append("after")
        await page.until(has_items(11))
        await run.close()
        lines = await page.end()
    assert items(lines) == run.log
    assert lines[-1] == {"end": "closed"}


async def test_a_page_resumes_at_a_new_process_on_the_same_port(two: Two) -> None:
    run = two.run
    await run.count(range(10))
    async with browse(two.a.url + run.path) as page:
        await page.until(has_items(10))
        await two.a.kill()
        await run.count(range(10, 20))
        await two.a.restart()
        await page.until(has_opened(2))
        await run.count(range(20, 30))
        await run.close()
        lines = await page.end()
    assert items(lines) == run.log
    assert lines[-1] == {"end": "closed"}


@pytest.mark.parametrize("end", ["reset", "end"])
@pytest.mark.parametrize("place", ["id:", "event: data", "data:[", "event: control", "data:{", "\n\n"])
async def test_a_connection_may_be_cut_at_any_place_of_a_frame(place: str, end: End, two: Two) -> None:
    run = two.run
    await run.append("before")
    async with browse(two.url) as page:
        await page.until(has_items(1))
        for number in range(2):
            trap = two.proxy.cut_before(place.encode(), end)
            await run.append({"n": number}, {"m": number})
            await trap.sprung()
            await run.append({"later": number})
            await page.until(has_items(len(run.log)))
        await run.close()
        lines = await page.end()
    assert items(lines) == run.log


async def test_a_page_whose_end_was_cut_off_is_ended_by_204(two: Two) -> None:
    """It has every event: the standard's way to say that nothing more comes (HTML §9.2.3)."""
    run = two.run
    await run.append("before")
    async with browse(two.url) as page:
        await page.until(has_items(1))
        trap = two.proxy.cut_before(b"event: control")
        await run.close("last")
        await trap.sprung()
        lines = await page.end()
    assert items(lines) == ["before", "last"]
    assert str(lines[-1]["end"]).startswith("failed: 204 ")
