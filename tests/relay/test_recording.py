"""A POST's streaming answer is recorded: its client is the first reader, and others come back to it at any Machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from gateway.asgi import Headers
from gateway.fanout.follower import Follower
from gateway.protocol.errors import Unavailable
from tests.databases import Postgres
from tests.relay.client import answer, asking
from tests.relay.houses import House, house_of
from tests.servers import PATIENCE, serving, until

CHAT = {"id": "c1", "messages": []}
ONE, TWO, THREE = b'data: {"n":1}\n\n', b'data: {"n":2}\n\n', b"data: [DONE]\n\n"
STREAM = "/api/chat/c1/stream"
LINES = {"content-type": "application/x-ndjson"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machines(postgres: Postgres) -> AsyncIterator[House]:
    async with house_of(postgres, relay="ai-sdk:/api/chat,ndjson:/lines") as house:
        yield house


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_an_answer_is_passed_on_as_it_is_and_ends_cleanly(house: House) -> None:
    async with asking(house.one.url, "POST", "/api/chat?x=1", {"accept-encoding": "gzip"}, CHAT) as response:
        call = await house.agent.call()
        assert (call.method, call.target, call.json) == ("POST", "/api/chat?x=1", CHAT)
        assert call.headers["accept-encoding"] == "identity"
        await call.begin(headers={"content-type": "text/event-stream", "x-odd": "1", "set-cookie": "a=b"})
        await call.say(ONE, TWO)
        await response.until(TWO)
        assert response.headers["x-odd"] == "1"
        assert response.headers["set-cookie"] == "a=b"
        await call.say(THREE)
        await call.end()
        assert await response.ended() == ONE + TWO + THREE
        assert response.whole


async def test_a_client_that_leaves_changes_nothing(house: House) -> None:
    async with asking(house.one.url, "POST", "/api/chat", body=CHAT) as response:
        call = await house.begun(response, ONE)
    async with asking(house.other.url, "GET", STREAM) as back:
        await back.until(ONE)
        await call.say(TWO)
        await back.until(TWO)
        await call.end()
        assert await back.ended() == ONE + TWO
        assert back.whole
    assert len(house.agent.calls) == 1


async def test_a_replay_has_no_cookies(house: House) -> None:
    async with asking(house.one.url, "POST", "/api/chat", body=CHAT) as response:
        call = await house.agent.call()
        named = {"x-vercel-ai-ui-message-stream": "v1", "set-cookie": "a=b", "x-odd": "1"}
        await call.begin(headers={"content-type": "text/event-stream; charset=utf-8", **named})
        await call.say(ONE)
        await call.end()
        await response.ended()
    back = await answer(house.other.url, "GET", STREAM)
    assert back.body == ONE
    assert back.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert back.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert back.headers.keys().isdisjoint({"set-cookie", "x-odd"})


async def test_where_nothing_runs_a_client_is_told_so(house: House) -> None:
    assert (await answer(house.one.url, "GET", "/api/chat/nobody/stream")).status == 204
    assert not house.agent.calls


async def test_what_the_upstream_cuts_ends_with_the_lost_frame(house: House) -> None:
    async with asking(house.one.url, "POST", "/api/chat", body=CHAT) as response:
        call = await house.begun(response, ONE)
        await call.say(b"data: half")
        call.cut()
        body = await response.ended()
        assert body == ONE + b'data: {"type":"error","errorText":"The agent server is gone."}\n\n'
        assert response.whole
    async with httpx.AsyncClient(base_url=house.one.url) as client:
        record = (await client.get("/runs?limit=1")).json()["runs"][0]
    assert (record["workflowName"], record["status"]) == ("ai-sdk:/api/chat", "errored")


async def test_frames_are_recorded_byte_for_byte(house: House) -> None:
    frames = [
        b"\xef\xbb\xbfdata: a\n\n",
        b"data: b\r\ndata: c\r\n\r\n",
        b"event: x\rdata: d\r\r",
        b"data: \x80\xff\n\n",
    ]
    large = b"data: " + b"x" * 300_000 + b"\n\n"
    whole = b"".join(frames) + large + b"data: without an end"
    async with asking(house.one.url, "POST", "/api/chat", body=CHAT) as response:
        call = await house.agent.call()
        await call.begin()
        for at in range(0, len(whole), 7_001):
            await call.say(whole[at : at + 7_001])
        await call.end()
        assert await response.ended() == whole
    assert (await answer(house.other.url, "GET", STREAM)).body == whole


async def test_comments_are_not_recorded(house: House) -> None:
    async with asking(house.one.url, "POST", "/api/chat", body=CHAT) as response:
        call = await house.agent.call()
        await call.begin()
        await call.say(b": alive\n\n", ONE, b":\n\n", b": alive\n\n" + TWO)
        await call.end()
        assert await response.ended() == ONE + TWO


async def newest(client: httpx.AsyncClient) -> list[str]:
    """The id of the newest run, if there is one."""
    return [run["runId"] for run in (await client.get("/runs?limit=1")).json()["runs"]]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {"content-type": "application/json"}),
        (500, {"content-type": "text/event-stream"}),
        (200, {"content-type": "text/event-stream", "content-encoding": "br"}),
        (429, {"content-type": "text/plain", "retry-after": "3"}),
    ],
)
async def test_any_other_answer_passes_and_leaves_no_run(house: House, status: int, headers: dict[str, str]) -> None:
    async with httpx.AsyncClient(base_url=house.one.url) as client:
        before = await newest(client)
        async with asking(house.one.url, "POST", "/api/chat", body={"id": "other"}) as response:
            call = await house.agent.call()
            await call.answer(status, b"as it is", headers)
            assert await response.ended() == b"as it is"
            assert response.status == status
            assert headers.items() <= response.headers.items()
        assert await newest(client) == before
        assert (await client.get("/api/chat/other/stream")).status_code == 204


async def test_a_post_without_the_key_is_passed_on(house: House) -> None:
    async with asking(house.one.url, "POST", "/api/chat", body=b"no json") as response:
        call = await house.agent.call()
        assert call.body == b"no json"
        await call.begin()
        await call.say(b"data: half a frame")
        await response.until(b"data: half a frame")  # nothing waits for its end
        await response.leave()
        await call.left()


async def test_an_upstream_that_is_not_there_is_502(house: House, postgres: Postgres) -> None:
    async with postgres.database() as url:
        with serving(url, "direct", upstream="http://127.0.0.1:1", relay="ai-sdk:/api/chat") as alone:
            response = await answer(alone.url, "POST", "/api/chat", body=CHAT)
            assert response.status == 502
            assert (await answer(alone.url, "GET", STREAM)).status == 204


async def test_a_second_run_of_a_key_is_the_one_that_is_come_back_to(house: House) -> None:
    async with (
        asking(house.one.url, "POST", "/api/chat", body=CHAT) as first,
        asking(house.other.url, "POST", "/api/chat", body=CHAT | {"second": True}) as second,
    ):
        calls = sorted([await house.agent.call(), await house.agent.call()], key=lambda call: "second" in call.json)
        for call, frame in zip(calls, (ONE, TWO), strict=True):
            await call.begin()
            await call.say(frame)
        await first.until(ONE)
        await second.until(TWO)
        for call in calls:
            await call.end()
        assert await first.ended() == ONE
        assert await second.ended() == TWO
    assert (await answer(house.one.url, "GET", STREAM)).body in (ONE, TWO)


async def test_lines_are_frames_where_the_row_says_so(house: House) -> None:
    async with asking(house.one.url, "POST", "/lines", {"x-run-id": "r1"}, {}) as response:
        call = await house.agent.call()
        await call.begin(headers={"content-type": "application/x-ndjson"})
        await call.say(b'{"a":1}\n{"b"', b":2}\n")
        await response.until(b":2}\n")
        call.cut()
        assert await response.ended() == b'{"a":1}\n{"b":2}\n{"error":"The agent server is gone."}\n'
    back = await answer(house.other.url, "GET", "/lines/r1?from=1")
    assert back.body == b'{"b":2}\n{"error":"The agent server is gone."}\n'


async def test_a_stop_at_another_machine_reaches_the_upstream(house: House) -> None:
    async with asking(house.one.url, "POST", "/api/chat", body=CHAT) as response:
        call = await house.begun(response, ONE)
        stopped = await answer(house.other.url, "POST", "/api/chat/c1/stop", body={})
        assert (stopped.status, stopped.body) == (200, b'{"id":"c1","status":"cancelled"}')
        await call.left()
        assert await response.ended() == ONE + b'data: {"type":"abort"}\n\n'
        assert response.whole


async def test_a_get_that_overtakes_the_answer_waits_for_it(house: House) -> None:
    async with asking(house.one.url, "POST", "/api/chat", body={"id": "slow"}):
        call = await house.agent.call()
        async with asking(house.other.url, "GET", "/api/chat/slow/stream") as back:
            await asyncio.sleep(0)
            await call.begin()
            await call.say(ONE)
            await call.end()
            assert await back.ended() == ONE


async def test_a_relayed_run_is_a_run(house: House) -> None:
    async with asking(house.one.url, "POST", "/api/chat", body=CHAT) as response:
        call = await house.begun(response, ONE, TWO)
        async with httpx.AsyncClient(base_url=house.other.url) as client:
            run = (await client.get("/runs?status=active&limit=1")).json()["runs"][0]
            assert run["workflowName"] == "ai-sdk:/api/chat"
            page = await client.get(f"/runs/{run['runId']}")
            assert (page.content, page.headers["content-type"]) == (ONE + TWO, "text/event-stream")
            meta = asyncio.ensure_future(client.get(f"/runs/{run['runId']}?meta&wait=30"))
            await until(lambda: bool(house.other.app._hub.tails))
            await call.end()
            assert (await meta).json()["status"] == "completed"


async def test_a_cancel_of_its_run_stops_a_recording(house: House) -> None:
    async with asking(house.one.url, "POST", "/api/chat", body={"id": "cancelled"}) as response:
        call = await house.begun(response, ONE)
        async with httpx.AsyncClient(base_url=house.other.url) as client:
            run = (await client.get("/runs?status=active&limit=1")).json()["runs"][0]["runId"]
            cancelled = await client.post(f"/runs/{run}/cancel")
            assert cancelled.is_success
            await call.left()
            assert await response.ended() == ONE + b'data: {"type":"abort"}\n\n'
            assert response.whole
            assert (await client.get(f"/runs/{run}?meta")).json()["status"] == "cancelled"


async def test_subscriptions_are_woken_by_relayed_runs(house: House) -> None:
    async with httpx.AsyncClient(base_url=house.other.url, timeout=PATIENCE) as client:
        asked = {"type": "pull-wake", "pattern": "runs/*", "wake_stream": "wakes"}
        assert (await client.put("/v1/stream/wakes", headers={"content-type": "application/json"})).is_success
        assert (await client.put("/v1/stream/__ds/subscriptions/relayed", json=asked)).is_success
        async with asking(house.one.url, "POST", "/api/chat", body={"id": "subscribed"}) as response:
            call = await house.begun(response, ONE)
            run = (await client.get("/runs?limit=1")).json()["runs"][0]["runId"]
            woken = await client.get("/v1/stream/wakes?offset=-1&live=long-poll")
            assert f"runs/{run}" in woken.text
            await call.end()
            await response.ended()


async def test_a_stop_before_the_upstream_has_answered_ends_the_run(house: House) -> None:
    async with asking(house.one.url, "POST", "/api/chat", body={"id": "early"}) as response:
        call = await house.agent.call()
        assert (await answer(house.other.url, "POST", "/api/chat/early/stop", body={})).status == 200
        await call.left()
        assert await response.ended() == b'data: {"type":"abort"}\n\n'


async def test_an_answer_whose_head_is_noted_late_is_recorded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    store = house.one.app._application.relay._store  # type: ignore[union-attr]
    note, away = store.answered, asyncio.Event()

    async def answered(stream: int, head: Headers) -> None:
        if not away.is_set():
            raise Unavailable
        await note(stream, head)

    monkeypatch.setattr(store, "answered", answered)
    async with asking(house.one.url, "POST", "/api/chat", body={"id": "noted late"}) as response:
        call = await house.begun(response, ONE)
        async with asking(house.other.url, "GET", "/api/chat/noted%20late/stream") as back:
            away.set()
            await back.until(ONE)
            await call.say(TWO)
            await call.end()
            assert await back.ended() == await response.ended() == ONE + TWO
            assert back.headers["content-type"] == "text/event-stream"


async def test_an_answer_whose_key_is_noted_late_is_recorded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    store = house.one.app._application.relay._store  # type: ignore[union-attr]
    name, tries = store.name, iter((Unavailable, Unavailable))

    async def away_twice(key: bytes, stream: int) -> None:
        for error in tries:
            raise error
        await name(key, stream)

    monkeypatch.setattr(store, "name", away_twice)
    async with asking(house.one.url, "POST", "/lines", body={}) as response:
        call = await house.agent.call()
        await call.begin(headers=LINES)
        await call.say(b"1\n")
        await response.begun()
        assert response.status == 200
        await call.end()
        assert await response.ended() == b"1\n"
    back = await answer(house.other.url, "GET", f"/lines/{response.headers['x-run-id']}")
    assert (back.status, back.body) == (200, b"1\n")


async def test_a_recording_that_cannot_begin_ends_at_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    relay = house.one.app._application.relay
    assert relay is not None

    async def fail(key: bytes, stream: int) -> None:
        raise RuntimeError("of no kind that anybody expects")

    monkeypatch.setattr(relay._store, "name", fail)
    async with asking(house.one.url, "POST", "/lines", body={}) as response:
        call = await house.agent.call()
        await call.begin(headers=LINES)
        await response.begun()
        assert response.status == 500
        await call.left()
    await until(lambda: not relay.recorders)
    async with httpx.AsyncClient(base_url=house.one.url) as client:
        assert (await client.get("/runs?limit=1")).json()["runs"][0]["status"] == "errored"


async def test_an_answer_that_is_not_recorded_ends_with_its_client(house: House) -> None:
    async with asking(house.one.url, "POST", "/api/chat", body=CHAT) as response:
        call = await house.agent.call()
        await call.begin(headers={"content-type": "text/plain"})
        await call.say(b"one")
        await response.until(b"one")
        await response.leave()
        await call.left()


async def test_a_client_that_does_not_read_holds_nothing_up(house: House) -> None:
    frames = [b"data: %d %s\n\n" % (n, b"x" * 100_000) for n in range(60)]
    async with asking(house.one.url, "POST", "/api/chat", body={"id": "slow reader"}) as response:
        response.pause()
        call = await house.agent.call()
        await call.begin()
        await call.say(*frames)
        await call.end()
        back = await answer(house.other.url, "GET", "/api/chat/slow%20reader/stream")
        assert back.body == b"".join(frames)
        response.resume()
        assert await response.ended() == b"".join(frames)


async def test_a_cut_is_a_reset_where_a_close_would_be_an_end(house: House) -> None:
    async with asking(house.one.url, "POST", "/api/chat", body={"id": "old"}) as response:
        await house.begun(response, ONE)
        host, _, port = house.other.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /api/chat/old/stream HTTP/1.0\r\nhost: a\r\n\r\n")
        assert ONE in await reader.readuntil(ONE)
        (tail,) = [tail for path, tail in house.other.app._hub.tails.items() if path.startswith("runs/")]
        (follower,) = tail.waiting
        assert isinstance(follower, Follower) and follower._parked is not None
        follower._parked.get_loop().call_soon_threadsafe(follower.end)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
