"""@durable-streams/client 0.2.7 reads, follows, resumes, writes and finishes runs, also when a Machine dies.

What the client itself does not do, an app has to, and follow.mjs and produce.mjs do it as an app would:
- A connection that is reset, or ends in the middle of the body, makes its SSE iteration throw: the app
  catches, and resumes at the last offset that it was given. A request that fails before its response has begun
  is retried by the client itself.
- Its promise `closed` is fulfilled before the last batch has been handed over: the app waits for that batch.
- Its first request never sets `live`; a reader is live from its second request on.
- After three SSE connections shorter than a second in a row its iteration ends and says nothing. A gateway
  must not end connections that early: what is tested is that ours, at their maximum age, do not bring it about.
- Its IdempotentProducer does not retry a failed request: the app gives it a fetch that does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients.conftest import StartTwo, Two
from tests.node import Script, npm_ci
from tests.tools.proxy import End

pytestmark = pytest.mark.asyncio(loop_scope="session")  # as the Machines that these tests share
HERE = Path(__file__).parent
LIVE = [True, "long-poll", "sse"]


@pytest.fixture(autouse=True, scope="module")
def packages() -> None:
    npm_ci(HERE)


def follow(url: str, live: bool | str, offset: str = "-1") -> Any:
    return Script.start(HERE / "follow.mjs", json.dumps({"url": url, "live": live, "offset": offset}))


def items(lines: list[Any]) -> list[Any]:
    return [line["item"] for line in lines if "item" in line]


def has_items(least: int) -> Any:
    return lambda lines: len(items(lines)) >= least


def interruptions(lines: list[Any]) -> list[Any]:
    return [line for line in lines if "interrupted" in line]


@pytest.mark.parametrize("live", [False, *LIVE])
async def test_a_finished_run_is_read_from_its_start_to_its_end(live: bool | str, two: Two) -> None:
    run = two.run
    await run.append({"n": 0}, "text", ["a", ["nested"], None], 1.5, {"ünïcode": "\r\n\u2028 🏃"})
    await run.count(range(1, 20))
    await run.close({"last": True})
    async with follow(two.url, live) as reader:
        lines = await reader.end()
    assert items(lines) == run.log
    assert lines[-1] == {"end": {"offset": run.end, "closed": True}}


@pytest.mark.parametrize("live", LIVE)
@pytest.mark.parametrize("last", [(), ({"last": True},)], ids=["closed-alone", "closed-with-an-event"])
async def test_a_live_run_is_followed_to_its_end(live: bool | str, last: tuple[Any, ...], two: Two) -> None:
    run = two.run
    await run.append("before")
    async with follow(two.url, live) as reader:
        await reader.until(has_items(1))
        for number in range(10):
            await run.append({"n": number}, {"m": number})
            await reader.until(has_items(len(run.log)))
        await run.close(*last)
        lines = await reader.end()
    assert items(lines) == run.log
    assert interruptions(lines) == []
    assert lines[-1] == {"end": {"offset": run.end, "closed": True}}


@pytest.mark.parametrize("live", LIVE)
async def test_an_empty_run_is_followed_from_before_its_first_event(live: bool | str, two: Two) -> None:
    run = two.run
    async with follow(two.url, live) as reader:
        await reader.until(lambda lines: any("live=" in line.get("get", "") for line in lines))
        await run.append("first")
        await run.close()
        lines = await reader.end()
    assert items(lines) == ["first"]


@pytest.mark.parametrize("live", [False, *LIVE])
async def test_a_reader_resumes_at_the_offset_that_it_saved(live: bool | str, two: Two) -> None:
    run = two.run
    await run.count(range(10))
    async with follow(two.url, live=False) as reader:
        saved = (await reader.end())[-1]["end"]
    assert saved == {"offset": run.end, "closed": False}
    await run.count(range(10, 20))
    await run.close()
    async with follow(two.url, live, offset=saved["offset"]) as reader:
        lines = await reader.end()
    assert items(lines) == run.log[10:]
    assert lines[-1]["end"]["closed"]


async def test_every_offset_of_a_live_reader_leads_to_exactly_the_rest(two: Two) -> None:
    run = two.run
    async with follow(two.url, "sse") as reader:
        for number in range(5):
            await run.append({"n": number}, {"m": number})
            await reader.until(has_items(len(run.log)))
        await run.close()
        lines = [line for line in await reader.end() if "item" in line]
    for offset in {line["next"] for line in lines}:
        seen = max(index for index, line in enumerate(lines) if line["next"] == offset) + 1
        async with follow(two.url, live=False, offset=offset) as later:
            assert items(await later.end()) == run.log[seen:]


@pytest.mark.parametrize("live", LIVE)
async def test_a_reader_resumes_at_another_machine_after_a_kill(live: bool | str, two: Two) -> None:
    run = two.run
    await run.count(range(10))
    async with follow(two.url, live) as reader:
        await reader.until(has_items(10))
        await run.count(range(10, 30))
        await reader.until(has_items(11))
        await two.lose_a()
        await run.count(range(30, 50))
        await run.close({"last": True})
        lines = await reader.end()
    assert items(lines) == run.log
    assert lines[-1] == {"end": {"offset": run.end, "closed": True}}


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_a_deploy_of_all_machines_goes_unnoticed(live: str, two: Two) -> None:
    run = two.run
    await run.count(range(10))
    async with follow(two.url, live) as reader:
        await reader.until(has_items(10))
        await run.append("before")
        await reader.until(has_items(11))
        await two.deploy()
        await run.append("after")
        await reader.until(has_items(12))
        await run.close()
        lines = await reader.end()
    assert items(lines) == run.log
    assert interruptions(lines) == []
    assert lines[-1] == {"end": {"offset": run.end, "closed": True}}


@pytest.mark.parametrize("end", ["reset", "end"])
async def test_a_cut_between_event_and_control_loses_nothing(end: End, two: Two) -> None:
    run = two.run
    async with follow(two.url, "sse") as reader:
        await reader.until(lambda lines: any("live=sse" in line.get("get", "") for line in lines))
        for number in range(5):
            trap = two.proxy.cut_before(b"event: control", end)
            await run.append({"n": number}, {"m": number})
            await trap.sprung()
            await reader.until(has_items(len(run.log)))
        await run.close()
        lines = await reader.end()
    assert items(lines) == run.log


async def test_sse_connections_at_their_maximum_age_go_unnoticed(start_two: StartTwo) -> None:
    two = await start_two(GATEWAY_SSE_MAX_AGE="2")
    run = two.run
    async with follow(two.url, "sse") as reader:
        for connection in range(1, 4):
            await reader.until(lambda lines, n=connection: sse_connections(lines) >= n)
            await run.append({"n": connection})
            await reader.until(has_items(len(run.log)))
        await run.close()
        lines = await reader.end()
    assert items(lines) == run.log
    assert interruptions(lines) == []


def sse_connections(lines: list[Any]) -> int:
    return sum("live=sse" in line.get("get", "") for line in lines)


def produce(url: str) -> Any:
    return Script.start(HERE / "produce.mjs", json.dumps({"url": url, "producer": "test"}))


def appended(total: int) -> Any:
    return lambda lines: {"appended": total} in lines


@pytest.mark.parametrize("last", [None, {"last": True}], ids=["closed-alone", "closed-with-an-event"])
async def test_the_producer_creates_a_run_appends_to_it_and_closes_it(last: Any, two: Two) -> None:
    url = two.url + "-produced"
    async with produce(url) as writer:
        await writer.say({"append": [0, 1, 2]})
        await writer.say({"append": [3]})
        await writer.say({"close": last})
        lines = await writer.end()
    assert [line for line in lines if "retried" in line] == []
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(url, params={"offset": "-1"})
    assert answer.json() == [0, 1, 2, 3] + ([last] if last else [])
    assert answer.headers["stream-closed"] == "true"
    assert lines[-1] == {"closed": answer.headers["stream-next-offset"]}


async def test_a_producer_resumes_at_another_machine_exactly_once(two: Two) -> None:
    url = two.url + "-produced"
    async with produce(url) as writer:
        await writer.until(lambda lines: lines != [])
        for number in range(200):
            await writer.say({"append": [number]})
        await writer.say({"close": "last"})
        await writer.until(appended(20))
        await two.lose_a()
        lines = await writer.end()
    assert lines[-1].keys() == {"closed"}
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(url, params={"offset": "-1"})
    assert answer.json() == [*range(200), "last"]


@pytest.mark.parametrize("end", ["reset", "end"])
async def test_an_append_whose_answer_is_lost_is_in_the_log_once(end: End, two: Two) -> None:
    url = two.url + "-produced"
    async with produce(url) as writer:
        await writer.until(lambda lines: lines != [])
        for number in range(5):
            trap = two.proxy.cut_before(b"HTTP/1.1", end)
            await writer.say({"append": [number]})
            await trap.sprung()
            await writer.until(appended(number + 1))
        await writer.say({"close": None})
        lines = await writer.end()
    assert len([line for line in lines if "retried" in line]) >= 5
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(url, params={"offset": "-1"})
    assert answer.json() == [*range(5)]
