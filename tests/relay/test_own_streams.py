"""Streams with a protocol of their own: of POSTs without a key, and of an EventSource, whose client is as it is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.databases import Postgres
from tests.event_source import read
from tests.manual import manual
from tests.relay.agent import Call
from tests.relay.client import Response, answer, asking
from tests.relay.houses import House, house_of
from tests.tools.browser import Browser

FRAMES = [b'data: {"text":"%d"}\n\n' % n for n in range(3)]
EVENTS = {"accept": "text/event-stream"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machines(postgres: Postgres) -> AsyncIterator[House]:
    async with house_of(postgres, relay="sse:/chat,ndjson:/lines,event-source:/events,ai-sdk:/api/chat") as house:
        yield house


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def whole(house: House, response: Response) -> None:
    """The agent's answer to what has been asked, until its client has it."""
    call = await house.begun(response, *FRAMES)
    await call.end()
    await response.ended()


def texts(body: bytes) -> list[str]:
    return [event.data for event in read(body).events]


ALL = texts(b"".join(FRAMES))


async def test_a_post_without_its_key_is_come_back_to_by_its_run(house: House) -> None:
    async with asking(house.one.url, "POST", "/chat", body={}) as response:
        call = await house.begun(response, FRAMES[0])
        run = response.headers["x-run-id"]
        await response.leave()
    async with asking(house.other.url, "GET", f"/chat/{run}") as back:
        await back.until(FRAMES[0])
        await call.say(*FRAMES[1:])
        await call.end()
        assert texts(await back.ended()) == ALL
        assert back.headers["x-run-id"] == run
    assert texts((await answer(house.one.url, "POST", "/chat", {"x-run-id": run}, {})).body) == ALL
    assert len(house.agent.calls) == 1
    async with httpx.AsyncClient(base_url=house.other.url) as client:
        assert (await client.get(f"/runs/{run}?meta")).json()["workflowName"] == "sse:/chat"


async def test_a_key_of_the_posts_own_is_told_as_it_is(house: House) -> None:
    async with asking(house.one.url, "POST", "/lines", {"x-run-id": "mine"}, {}) as response:
        call = await house.agent.call()
        await call.begin(headers={"content-type": "application/x-ndjson"})
        await call.say(b'{"n":1}\n')
        await call.end()
        assert await response.ended() == b'{"n":1}\n'
        assert response.headers["x-run-id"] == "mine"
    assert (await answer(house.other.url, "GET", "/lines/mine")).body == b'{"n":1}\n'


async def test_two_without_a_key_are_two_runs(house: House) -> None:
    runs = set()
    for _ in range(2):
        async with asking(house.one.url, "POST", "/chat", body={}) as response:
            await whole(house, response)
            runs.add(response.headers["x-run-id"])
    assert len(runs) == len(house.agent.calls) == 2


async def test_an_event_source_goes_on_by_itself(house: House) -> None:
    async with asking(house.one.url, "GET", "/events?q=x", EVENTS) as response:
        call = await house.begun(response, FRAMES[0])
        assert (call.method, call.target, call.headers.get("content-length")) == ("GET", "/events?q=x", None)
        id = read(response.body).last_event_id
        await response.leave()
    async with asking(house.other.url, "GET", "/events?q=x", EVENTS | {"last-event-id": id}) as back:
        await back.begun()
        await call.say(*FRAMES[1:])
        await call.end()
        assert texts(await back.ended()) == ALL[1:]
    assert len(house.agent.calls) == 1


async def test_an_event_source_that_has_all_starts_no_other_run(house: House) -> None:
    async with asking(house.one.url, "GET", "/events", EVENTS) as response:
        await whole(house, response)
        id = read(response.body).last_event_id
    unknown = "run_01ARZ3NDEKTSV4RRFFQ69G5FAV.1"  # as of one whose recording has been removed
    for last in (id, unknown):
        assert (await answer(house.other.url, "GET", "/events", EVENTS | {"last-event-id": last})).status == 204
    assert len(house.agent.calls) == 1


async def test_a_reload_of_an_address_with_a_run_is_its_answer(house: House) -> None:
    async with asking(house.one.url, "GET", "/events?run=r1", EVENTS) as response:
        await whole(house, response)
    for target in ("/events?run=r1", "/events/r1"):
        assert texts((await answer(house.other.url, "GET", target, EVENTS)).body) == ALL
    async with asking(house.one.url, "GET", "/events?run=r2", EVENTS) as response:
        await whole(house, response)
    assert len(house.agent.calls) == 2


async def test_a_get_whose_answer_is_no_stream_is_passed_on(house: House) -> None:
    async with asking(house.one.url, "GET", "/events?run=page", {"accept": "text/html"}) as response:
        call = await house.agent.call()
        await call.answer(200, b"<p>", {"content-type": "text/html", "etag": '"1"'})
        assert await response.ended() == b"<p>"
        assert response.headers["etag"] == '"1"'
        assert "x-run-id" not in response.headers
    async with asking(house.one.url, "GET", "/events?run=page", EVENTS) as again:
        await whole(house, again)


async def test_the_body_of_a_get_is_no_other_request(house: House) -> None:
    body = b"GET /secret HTTP/1.1\r\nhost: app\r\n\r\n"
    async with asking(house.one.url, "GET", "/events", EVENTS, body) as response:
        await whole(house, response)
    (call,) = house.agent.calls
    assert (call.target, call.body) == ("/events", body)


async def test_a_post_that_lacks_its_key_is_told_of_once(house: House, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            async with asking(house.one.url, "POST", "/api/chat", body={"messages": []}) as response:
                await whole(house, response)
                assert response.body == b"".join(FRAMES)
    async with httpx.AsyncClient(base_url=house.one.url) as client:
        assert "\nrun_gateway_unrecorded_posts_total 2.0\n" in (await client.get("/metrics")).text
    assert caplog.text.count("ai-sdk:/api/chat is passed on without being recorded: it has no key at body:id") == 1


async def test_the_page_of_the_manual_survives_a_reload(house: House) -> None:
    (page,) = re.findall(r"```js\n(export async function ask.*?)```", manual("relay"), re.DOTALL)
    shown = "const show = ({ text }) => { document.title += text; return text === '2' ? 'last' : text; };"
    body = f"<script type=module>{page}\n{shown}\nwindow.ask = ask; listen();</script>".encode()
    asked: asyncio.Queue[Call] = asyncio.Queue()

    async def serve() -> None:
        while True:
            call = await house.agent.call()
            match call.method, call.target:
                case "POST", "/chat":
                    asked.put_nowait(call)
                case _, "/":
                    await call.answer(200, body, {"content-type": "text/html"})
                case _:
                    await call.answer(404, b"")

    serving = asyncio.create_task(serve())
    try:
        async with Browser.start() as browser:
            await browser.open(f"{house.one.url}/")
            await browser.run("window.ask({})")
            call = await asked.get()
            await call.begin()
            await call.say(*FRAMES[:2])
            await browser.until("return document.title", lambda title: title == "01")
            await browser.reload()
            await browser.until("return document.title", lambda title: title == "01")
            await call.say(FRAMES[2])
            await browser.until("return document.title", lambda title: title == "012")
            await call.end()
            assert await browser.run("return sessionStorage.run === undefined")
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
    assert asked.empty()
