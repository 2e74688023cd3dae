"""Each way by which a client comes back: an id, a key, a number, the same POST. At the other Machine, always."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from gateway.relay.framing import last_id
from tests.databases import Postgres
from tests.relay.agent import Call
from tests.relay.client import answer, asking
from tests.relay.houses import House, house_of

RELAY = "tanstack:/ai,langgraph:/,openai-responses:/v1/responses,ai-sdk-workflow:/flow,ag-ui:/agent,sse:/any"
FRAMES = [b'data: {"n":%d}\n\n' % n for n in range(5)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machines(postgres: Postgres) -> AsyncIterator[House]:
    async with house_of(postgres, relay=RELAY) as house:
        yield house


pytestmark = pytest.mark.asyncio(loop_scope="module")


def frames_of(body: bytes) -> list[tuple[str, bytes]]:
    """The id and the rest of each frame."""
    frames = re.findall(rb"(?:[^\n]+\n)+\n", body)
    return [((last_id(frame) or b"").decode(), re.sub(rb"id: [^\n]*\n", b"", frame)) for frame in frames]


async def whole(call: Call, frames: list[bytes]) -> None:
    await call.say(*frames)
    await call.end()


async def test_an_id_leads_to_what_comes_after_it(house: House) -> None:
    async with asking(house.one.url, "POST", "/ai", {"x-run-id": "t1"}, {}) as response:
        call = await house.agent.call()
        await call.begin()
        await whole(call, [FRAMES[0], b": alive\n\n", *FRAMES[1:]])
        got = frames_of(await response.ended())
    assert [frame for _, frame in got] == FRAMES
    for n, (id, _) in enumerate(got):
        for method, target in (("POST", "/ai"), ("GET", "/ai?runId=t1"), ("GET", "/elsewhere")):
            body: object = None if method == "GET" else {}
            back = await answer(house.other.url, method, target, {"last-event-id": id}, body)
            assert frames_of(back.body) == got[n + 1 :]
            assert back.whole
    assert len(house.agent.calls) == 1


async def test_an_id_of_an_answer_under_way_leads_on_live(house: House) -> None:
    async with asking(house.one.url, "POST", "/any", {"x-run-id": "t2"}, {}) as response:
        call = await house.begun(response, FRAMES[0])
        (id, _), *_ = frames_of(response.body)
        await response.leave()
    async with asking(house.other.url, "GET", "/any", {"last-event-id": id}) as back:
        await back.begun()
        await whole(call, FRAMES[1:])
        assert [frame for _, frame in frames_of(await back.ended())] == FRAMES[1:]


async def test_an_id_that_is_not_ours_begins_at_the_start(house: House) -> None:
    async with asking(house.one.url, "POST", "/any", {"x-run-id": "t3"}, {}) as response:
        call = await house.agent.call()
        await call.begin()
        await whole(call, [b"id: 7\n" + FRAMES[0], FRAMES[1]])
        got = frames_of(await response.ended())
    assert all(id.startswith("run_") for id, _ in got)
    for given in ("-1", "7", "run_01ARZ3NDEKTSV4RRFFQ69G5FAV.1"):
        assert frames_of((await answer(house.other.url, "GET", "/any/t3", {"last-event-id": given})).body) == got


async def test_two_posts_at_once_start_one_run(house: House) -> None:
    async with (
        asking(house.one.url, "POST", "/ai", {"x-run-id": "twice"}, {}) as first,
        asking(house.other.url, "POST", "/ai", {"x-run-id": "twice"}, {}) as second,
    ):
        call = await house.agent.call()
        await call.begin()
        await whole(call, FRAMES)
        bodies = await asyncio.gather(first.ended(), second.ended())
    assert bodies[0] == bodies[1]
    assert [frame for _, frame in frames_of(bodies[0])] == FRAMES
    assert len(house.agent.calls) == 1
    assert (await answer(house.other.url, "POST", "/ai", {"x-run-id": "twice"}, {})).body == bodies[0]


async def test_a_second_post_asks_for_itself_if_the_first_is_refused(house: House) -> None:
    async with asking(house.one.url, "POST", "/ai", {"x-run-id": "no"}, {}) as first:
        call = await house.agent.call()
        async with asking(house.other.url, "POST", "/ai", {"x-run-id": "no"}, {}) as second:
            await call.answer(500, b"no")
            assert await first.ended() == b"no"
            again = await house.agent.call()
            await again.begin()
            await whole(again, FRAMES)
            assert [frame for _, frame in frames_of(await second.ended())] == FRAMES


async def test_the_location_of_an_answer_leads_back(house: House) -> None:
    location = {"location": "/threads/t/runs/r/stream", "content-location": "/threads/t/runs/r"}
    async with asking(house.one.url, "POST", "/threads/t/runs/stream", body={}) as response:
        call = await house.begun(response, FRAMES[0], headers={"content-type": "text/event-stream", **location})
        assert location.items() <= response.headers.items()
        (id, _), *_ = frames_of(response.body)
    async with asking(house.other.url, "GET", "/threads/t/runs/r/stream?x=1", {"last-event-id": "-1"}) as joined:
        await joined.until(FRAMES[0])
        await whole(call, FRAMES[1:])
        assert [frame for _, frame in frames_of(await joined.ended())] == FRAMES
        assert location.items() <= joined.headers.items()
    back = await answer(house.other.url, "GET", "/threads/t/runs/r/stream", {"last-event-id": id})
    assert [frame for _, frame in frames_of(back.body)] == FRAMES[1:]


async def test_what_no_key_names_is_the_upstreams(house: House) -> None:
    async with asking(house.one.url, "GET", "/threads/t/runs/other/stream", {"last-event-id": "-1"}) as response:
        call = await house.agent.call()
        assert (call.method, call.target) == ("GET", "/threads/t/runs/other/stream")
        await call.answer(200, b"its own")
        assert await response.ended() == b"its own"


async def test_a_number_in_the_frames_leads_back(house: House) -> None:
    created = b'event: response.created\ndata: {"sequence_number":0,"response":{"id":"resp_1"}}\n\n'
    deltas = [b'event: d\ndata: {"sequence_number":%d}\n\n' % n for n in range(1, 4)]
    asked = {"stream": True, "background": True, "number": 1.50, "input": "x"}
    async with asking(house.one.url, "POST", "/v1/responses", body=asked) as response:
        call = await house.agent.call()
        assert call.body == b'{"stream":true,"number":1.5,"input":"x"}'
        await call.begin()
        await call.say(created[:20], created[20:], deltas[0])
        await response.until(deltas[0])
        await response.leave()
        target = "/v1/responses/resp_1?stream=true&starting_after="
        async with asking(house.other.url, "GET", target + "0") as back:
            await back.until(deltas[0])
            await whole(call, deltas[1:])
            assert await back.ended() == b"".join(deltas)
    assert (await answer(house.one.url, "GET", target + "2")).body == deltas[2]
    assert (await answer(house.one.url, "GET", "/v1/responses/resp_1?stream=true")).body == created + b"".join(deltas)


async def test_a_count_of_frames_leads_back(house: House) -> None:
    async with asking(house.one.url, "POST", "/flow", body={}) as response:
        call = await house.begun(response, *FRAMES[:2])
        run = response.headers["x-workflow-run-id"]
        async with asking(house.other.url, "GET", f"/flow/{run}/stream?startIndex=1") as back:
            await back.until(FRAMES[1])
            await whole(call, FRAMES[2:])
            assert await back.ended() == b"".join(FRAMES[1:])
            assert back.headers["x-workflow-run-id"] == run
    assert (await answer(house.other.url, "GET", f"/flow/{run}/stream?startIndex=4")).body == FRAMES[4]
    ended = await answer(house.other.url, "GET", f"/flow/{run}/stream?startIndex=5")
    assert (ended.status, ended.body) == (404, b"")
    assert (await answer(house.other.url, "GET", "/flow/none/stream?startIndex=0")).status == 404


async def test_the_same_post_again_is_given_the_same_answer(house: House) -> None:
    async with asking(house.one.url, "POST", "/agent", body={"runId": "a"}) as response:
        call = await house.agent.call()
        await call.begin()
        await whole(call, FRAMES)
        body = await response.ended()
    assert body == b"".join(FRAMES)
    assert (await answer(house.other.url, "POST", "/agent", body={"runId": "a"})).body == body
    assert len(house.agent.calls) == 1


async def test_a_long_answer_is_come_back_to_from_any_of_its_ids(house: House) -> None:
    frames = [b"data: %d %s\n\n" % (n, b"x" * 500) for n in range(600)]
    async with asking(house.one.url, "POST", "/any", {"x-run-id": "long"}, {}) as response:
        call = await house.agent.call()
        await call.begin()
        await whole(call, frames)
        got = frames_of(await response.ended())
    assert [frame for _, frame in got] == frames
    for n in (0, 1, 250, 598, 599):
        back = await answer(house.other.url, "GET", "/any", {"last-event-id": got[n][0]})
        assert frames_of(back.body) == got[n + 1 :]
    async with httpx.AsyncClient(base_url=house.other.url) as client:
        run = got[0][0].partition(".")[0]
        assert (await client.get(f"/runs/{run}")).content == b"".join(frames)
