"""An answer whose connection to the upstream breaks goes on, where the upstream can go on with it; else it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import orjson
import pytest
import pytest_asyncio

from tests.databases import Postgres
from tests.relay.agent import Call
from tests.relay.client import Response, answer, asking
from tests.relay.houses import House, house_of
from tests.servers import PATIENCE

RELAY_FILE = """
[[relay]]
name   = "any"
start  = "POST /any/{room}"
key    = "header:x-run-id"
ids    = true
resume = "GET /any/{room}/{key}"
stop   = "POST /any/{room}/{key}/stop"
lost   = "data: lost"
stopped = "data: stopped"
values = { answer = "response:x-answer" }
rejoin = { ask = "GET /any/{room}/{key}?answer={answer}", by = "header:last-event-id", send = ["Authorization"] }
cancel = "DELETE /any/{room}/{answer}"

[[relay]]
name   = "counted"
start  = "POST /counted"
key    = "header:x-run-id"
resume = "GET /counted/{key}"
rejoin = { ask = "GET /counted/{key}", by = "query:startIndex", last = "frames" }
"""
IDS = [b"id: %d\ndata: %d\n\n" % (n, n) for n in range(6)]
NUMBERS = [b'data: {"sequence_number":%d,"response":{"id":"resp"},"pad":"%d"}\n\n' % (n, n) for n in range(6)]
AGAIN_NUMBERS = [frame.replace(b'"pad":"', b'"pad":"-') for frame in NUMBERS]
PLAIN = [b"data: %d\n\n" % n for n in range(6)]
LANGGRAPH = {"location": "/threads/t/runs/r/stream", "content-location": "/threads/t/runs/r"}
ASKED = {
    "any": ("/any/7", {"x-answer": "a b"}, IDS, IDS, "/any/7/{key}?answer=a%20b"),
    "counted": ("/counted", {}, PLAIN, PLAIN, "/counted/{key}?startIndex=2"),
    "langgraph": ("/threads/t/runs/stream", LANGGRAPH, IDS, IDS, "/threads/t/runs/r/stream"),
    "openai": ("/v1/responses", {}, NUMBERS, AGAIN_NUMBERS, "/v1/responses/resp?stream=true&starting_after=1"),
}
"""Where a POST goes, the headers of its answer, its frames, how they come again, and where the rest is asked for."""
KEPT = "SELECT rejoin::text FROM run_gateway.recordings WHERE rejoin ->> 'rest' LIKE '/any/7/kept%'"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machines(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    file = tmp_path_factory.mktemp("relay") / "relay.toml"
    file.write_text(RELAY_FILE)
    relay = "langgraph:/,openai-background:/v1/responses"
    async with house_of(postgres, relay=relay, relay_file=file) as house:
        yield house


in_module = pytest.mark.asyncio(loop_scope="module")


@asynccontextmanager
async def cut(house: House, name: str, key: str) -> AsyncIterator[tuple[Response, Call]]:
    """An answer whose connection breaks after three frames and half of one more, and the question for the rest."""
    target, headers, frames, *_ = ASKED[name]
    body = {"stream": True, "background": True}
    given = {"x-run-id": key, "authorization": "Bearer a", "cookie": "s=1"}
    async with asking(house.one.url, "POST", target, given, body) as response:
        call = await house.agent.call()
        await call.begin(headers={"content-type": "text/event-stream", **headers})
        await call.say(*frames[:3])
        await response.until(plain(frames[2]))
        await call.say(b": c\n\n", frames[3][:7])
        call.cut()
        yield response, await house.agent.call()


def plain(body: bytes) -> bytes:
    """Without ids."""
    return re.sub(rb"id: [^\n]*\n", b"", body)


@in_module
@pytest.mark.parametrize("name", ASKED)
async def test_a_cut_answer_goes_on_and_its_client_sees_nothing(house: House, name: str) -> None:
    _, _, frames, again, asked = ASKED[name]
    async with cut(house, name, f"cut-{name}") as (response, rest):
        assert (rest.method, rest.target) == ("GET", asked.format(key=f"cut-{name}"))
        assert rest.headers["accept"] == "text/event-stream"
        assert rest.headers["authorization"] == "Bearer a"
        assert rest.headers.get("last-event-id") == ("1" if frames is IDS else None)
        await rest.begin()
        await rest.say(b": again\n\n", again[2][:5], again[2][5:] + again[3])
        await rest.say(*again[4:])
        await rest.end()
        body = await response.ended()
    assert response.whole
    assert plain(body).replace(b'"pad":"-', b'"pad":"') == plain(b"".join(frames))
    assert len(house.agent.calls) == 2


@in_module
async def test_an_upstream_that_sends_everything_is_understood(house: House) -> None:
    async with cut(house, "any", "everything") as (response, rest):
        await rest.begin()
        await rest.say(*IDS)
        await rest.end()
        assert plain(await response.ended()) == plain(b"".join(IDS))


@in_module
@pytest.mark.parametrize(
    ("again", "why"),
    [
        (IDS[3:], "a gap"),
        ([b"id: 2\ndata: other\n\n", *IDS[3:]], "another answer"),
        (IDS[1:2], "an end before the log's"),
        ([], "nothing"),
    ],
)
async def test_what_is_not_the_rest_ends_the_run_as_lost(house: House, again: list[bytes], why: str) -> None:
    async with cut(house, "any", f"not {why}".replace(" ", "-").replace("'", "")) as (response, rest):
        with contextlib.suppress(ConnectionError):  # it is left as soon as that is seen
            await rest.begin()
            await rest.say(*again)
            await rest.end()
        assert plain(await response.ended()) == plain(b"".join(IDS[:3])) + b"data: lost\n\n"
        assert response.whole


@in_module
@pytest.mark.parametrize(
    ("status", "kind"), [(404, "text/plain"), (401, "text/plain"), (200, "text/html"), (204, "text/event-stream")]
)
async def test_an_upstream_that_cannot_go_on_ends_it_as_lost(house: House, status: int, kind: str) -> None:
    async with cut(house, "any", f"no-{status}") as (response, rest):
        await rest.answer(status, b"" if status == 204 else b"no", {"content-type": kind})
        assert plain(await response.ended()) == plain(b"".join(IDS[:3])) + b"data: lost\n\n"


@in_module
async def test_an_upstream_that_is_on_its_way_back_is_waited_for(house: House) -> None:
    async with cut(house, "any", "back") as (response, rest):
        await rest.answer(503, b"")
        again = await house.agent.call()
        await again.begin()
        await again.say(IDS[2][:7])
        again.cut()  # in the middle of what is known already
        again = await house.agent.call()
        await again.begin()
        await again.say(*IDS[2:4])
        await response.until(b"data: 3")
        again.cut()
        again = await house.agent.call()
        assert again.headers["last-event-id"] == "2"
        await again.begin()
        await again.say(*IDS[3:])
        await again.end()
        assert plain(await response.ended()) == plain(b"".join(IDS))


@in_module
async def test_a_stop_is_told_to_the_upstream_as_well(house: House) -> None:
    async with cut(house, "any", "stopped") as (response, rest):
        await rest.begin()
        await rest.say(*IDS[2:4])
        await response.until(b"data: 3")
        assert (await answer(house.other.url, "POST", "/any/7/stopped/stop", body={})).status == 200
        told = await house.agent.call()
        assert (told.method, told.target) == ("DELETE", "/any/7/a%20b")
        assert told.headers["authorization"] == "Bearer a"
        await told.answer(204, b"")
        await rest.left()
        assert plain(await response.ended()) == plain(b"".join(IDS[:4])) + b"data: stopped\n\n"


@in_module
async def test_what_is_kept_for_others_is_what_the_row_names(house: House) -> None:
    async with cut(house, "any", "kept") as (response, rest):
        connection = await asyncpg.connect(house.database_url)
        (kept,) = await connection.fetch(KEPT)
        found = orjson.loads(kept["rejoin"])
        assert found["rest"] == "/any/7/kept?answer=a%20b"
        assert found["cancel"] == ["DELETE", "/any/7/a%20b"]
        assert found["headers"] == [["host", "app.test"], ["authorization", "Bearer a"]]
        await rest.answer(404, b"")
        await response.ended()
    await until_forgotten(connection)
    await connection.close()


async def until_forgotten(connection: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while await connection.fetch(KEPT):
            await connection.execute("SELECT pg_sleep(0.02)")
