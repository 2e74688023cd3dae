"""Who may come back to a recording, what becomes of one that nobody reads, and what `serve` refuses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.process.checks import check
from gateway.process.exit_codes import Misuse
from gateway.relay.ids import belongs, credential_of, new_run, parse_frame_id
from gateway.relay.keys import Asked, Source
from gateway.settings import load
from tests.databases import Postgres
from tests.relay.client import answer, asking
from tests.relay.houses import House, house_of
from tests.servers import until

ROWS = """
[[relay]]
name = "private"
start = "POST /private"
key = "body:id"
attach = true
ids = true
resume = ["GET /private/{key}", "GET /private"]
stop = "POST /private/{key}/stop"
credential = ["header:authorization", "cookie:session"]

[[relay]]
name = "guarded"
start = "POST /guarded/{room}"
key = "header:x-run-id"
ids = true
resume = "GET /guarded/{room}/{key}"
authorize = "GET /rooms/{room}"

[[relay]]
name = "joined"
start = "POST /joined/{room}"
key = "header:x-run-id"
attach = true
resume = "GET /joined/{room}/{key}"
authorize = "GET /rooms/{room}"

[[relay]]
name = "left"
start = "POST /left"
key = "body:id"
resume = "GET /left/{key}"
leave = "body:on_disconnect"
leave_after = 1

[[relay]]
name = "kept"
start = "POST /kept"
key = "body:id"
resume = "GET /kept/{key}"
leave = "cancel"
leave_after = 36000
"""
FRAME = b"data: 1\n\n"
MINE, THEIRS = {"authorization": "Bearer a", "cookie": "x=1; session=s"}, {"authorization": "Bearer b"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machines(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    file = tmp_path_factory.mktemp("relay") / "relay.toml"
    file.write_text(ROWS)
    async with house_of(postgres, relay_file=file) as house:
        yield house


def in_module(test: Any) -> Any:
    return pytest.mark.asyncio(loop_scope="module")(test)


@in_module
async def test_only_the_same_credential_comes_back(house: House) -> None:
    async with asking(house.one.url, "POST", "/private", MINE, {"id": "p"}) as response:
        call = await house.begun(response, FRAME)
        await call.end()
        body = await response.ended()
    id = {"last-event-id": body.partition(b"\n")[0].removeprefix(b"id: ").decode()[:-1] + "0"}
    for headers in (MINE, MINE | {"x-other": "1"}):
        assert (await answer(house.other.url, "GET", "/private/p", headers)).body == body
        assert (await answer(house.other.url, "GET", "/private", headers | id)).body == body
    for headers in (THEIRS, {}, {"authorization": "Bearer a"}, MINE | {"cookie": "session=t"}):
        for target, more in (("/private/p", {}), ("/private", id)):
            async with asking(house.other.url, "GET", target, headers | more) as refused:
                passed = await house.agent.call()  # as if there were no such recording
                await passed.answer(404, b"")
                await refused.ended()
                assert refused.status == 404


@in_module
async def test_a_key_of_one_client_is_no_key_of_another(house: House) -> None:
    async with asking(house.one.url, "POST", "/private", MINE, {"id": "q"}) as mine:
        first = await house.begun(mine, FRAME)
        async with asking(house.other.url, "POST", "/private", THEIRS, {"id": "q"}) as theirs:
            second = await house.begun(theirs, b"data: 2\n\n")
            await second.end()
            await theirs.ended()
        stop = await answer(house.other.url, "POST", "/private/q/stop", MINE, {})
        assert stop.status == 200
        await first.left()
        await mine.ended()


@in_module
async def test_the_upstream_is_asked_whether_a_client_may_come_back(house: House) -> None:
    async with asking(house.one.url, "POST", "/guarded/7", {"x-run-id": "g"}, {}) as response:
        call = await house.begun(response, FRAME)
        await call.end()
        await response.ended()
    for status, expected in ((200, 200), (403, 404)):
        async with asking(house.other.url, "GET", "/guarded/7/g", MINE) as back:
            question = await house.agent.call()
            assert (question.method, question.target) == ("GET", "/rooms/7")
            assert question.headers["authorization"] == "Bearer a"
            await question.answer(status, b"")
            if status == 403:
                await (await house.agent.call()).answer(404, b"")
            await back.ended()
            assert back.status == expected
            assert (FRAME in back.body) is (status == 200)


@in_module
async def test_who_is_not_let_in_takes_no_key_away(house: House) -> None:
    async with asking(house.one.url, "POST", "/joined/7", MINE | {"x-run-id": "j"}, {}) as response:
        await (await house.begun(response, FRAME)).end()
        await response.ended()
    async with asking(house.other.url, "POST", "/joined/7", THEIRS | {"x-run-id": "j"}, {}) as response:
        await (await house.agent.call()).answer(403, b"")  # so they have an answer of theirs
        await (await house.begun(response, b"data: 2\n\n")).end()
        assert await response.ended() == b"data: 2\n\n"
    async with asking(house.other.url, "GET", "/joined/7/j", MINE) as back:
        await (await house.agent.call()).answer(200, b"")
        assert await back.ended() == FRAME


@in_module
async def test_who_is_let_in_elsewhere_may_not_come_back(house: House) -> None:
    """A client asks by a victim's key, or its id, from a room of its own, or by a path that leads to no room."""
    async with asking(house.one.url, "POST", "/guarded/7", {"x-run-id": "victim"}, {}) as response:
        call = await house.begun(response, FRAME)
        await call.end()
        id = (await response.ended()).partition(b"\n")[0].removeprefix(b"id: ").decode().rpartition(".")[0]
    for target, headers in (
        ("/guarded/8/victim", {}),
        ("/guarded/%2e%2e/victim", {}),
        ("/guarded/8/x", {"last-event-id": f"{id}.0"}),
        ("/elsewhere", {"last-event-id": f"{id}.0"}),
    ):
        async with asking(house.other.url, "GET", target, headers) as back:
            passed = await house.agent.call()
            assert passed.target == target  # it is not even asked whether this client is let in
            await passed.answer(404, b"")
            await back.ended()
            assert back.status == 404
    for target, headers in (("/guarded/7/victim", {}), ("/guarded/7/x", {"last-event-id": f"{id}.0"})):
        async with asking(house.other.url, "GET", target, headers) as back:
            question = await house.agent.call()
            assert question.target == "/rooms/7"
            await question.answer(204, b"")
            assert FRAME in await back.ended()


@in_module
@pytest.mark.parametrize("mode", ["cancel", "continue"])
async def test_a_run_that_everybody_has_left_is_cancelled_if_it_says(house: House, mode: str) -> None:
    async with asking(house.one.url, "POST", "/left", body={"id": mode, "on_disconnect": mode}) as response:
        call = await house.begun(response, FRAME)
    async with asking(house.other.url, "GET", f"/left/{mode}") as back:
        await back.until(FRAME)
        if mode == "continue":
            await call.say(FRAME)
            await call.end()
            assert await back.ended() == FRAME + FRAME
            return
    await call.left()
    async with httpx.AsyncClient(base_url=house.other.url) as client:
        (run,) = (await client.get("/runs?limit=1")).json()["runs"]
        assert (await client.get(f"/runs/{run['runId']}?meta&wait=30")).json()["status"] == "cancelled"


@in_module
async def test_a_reader_at_another_machine_keeps_a_run(house: House) -> None:
    relay, other = house.one.app._application.relay, house.other.app._application.relay
    assert relay is not None and other is not None

    async with asking(house.one.url, "POST", "/kept", body={"id": "kept"}) as response:
        call = await house.begun(response, FRAME)
        (recorder,) = [each for each in relay.recorders if each.row.name == "kept"]
        await response.leave()
        await until(lambda: not relay._replays.has_readers(recorder.path))
        recorder.left = time.monotonic()
        long_after = recorder.left + recorder.row.leave_after + 1  # the Machine's own looks come sooner

        async def is_left() -> bool:
            asked = asyncio.run_coroutine_threadsafe(relay._is_left(recorder, long_after), recorder._loop)
            return await asyncio.wrap_future(asked)

        assert await is_left()
        before = other._noted
        async with asking(house.other.url, "GET", "/kept/kept") as back:
            await back.until(FRAME)
            await until(lambda: other._noted > before)
            assert not await is_left()
            await call.end()
            assert await back.ended() == FRAME


def test_a_mark_tells_credentials_apart() -> None:
    sources = [Source.parse("header:authorization"), Source.parse("cookie:session")]

    def credential(headers: dict[str, str], secret: bytes = b"s") -> bytes:
        given = [(name.encode(), value.encode()) for name, value in headers.items()]
        return credential_of(sources, Asked(given, {}, {}), secret)

    run = new_run(1.0, bytes(10), credential(MINE), b"s")
    assert belongs(run, credential(MINE), b"s")
    assert not belongs(run, credential(THEIRS), b"s")
    assert not belongs(run, credential({}), b"s")
    assert not belongs(run, b"", b"s")
    assert not belongs(run, credential(MINE), b"other")
    assert not belongs(run.partition("-")[0], credential(MINE), b"s")
    assert belongs(new_run(1.0, bytes(10), b"", b"s"), b"", b"s")


@pytest.mark.parametrize("text", [b"", b"7", b"-1", b"run_1.2", b"run_01ARZ3NDEKTSV4RRFFQ69G5FAV.99999999999999999999"])
def test_what_is_no_id_of_ours_names_no_place(text: bytes) -> None:
    assert parse_frame_id(text) is None


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"relay": "ai-sdk:/api/chat"}, "GATEWAY_UPSTREAM is not"),
        ({"relay": "nuxt:/x", "upstream": "http://h"}, "there is no preset nuxt"),
        (
            {"relay": "ai-sdk:/api/chat", "upstream": "http://h", "host": "0.0.0.0", "allow_anonymous": True},
            "would let anyone come back to what ai-sdk:/api/chat records",
        ),
        ({"relay": "ai-sdk:/a", "upstream": "http://h", "relay_credential": "body:id"}, "must be headers, cookies"),
    ],
)
def test_a_relay_that_cannot_be_meant_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Misuse) as refused:
        check(load(**settings))
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    "more", [{"relay_credential": "header:authorization"}, {"auth": "keys", "keys": f"a:read,write:{'s' * 32}"}]
)
def test_a_relay_for_others_may_start_if_clients_are_told_apart(more: dict[str, Any]) -> None:
    given = {"relay": "ai-sdk:/api/chat", "upstream": "http://h", "host": "0.0.0.0", "allow_anonymous": True}
    check(load(**(given | more)))


def test_a_file_of_rows_is_checked_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text("[[relay]]\nstart = 'POST /x'\nkey = 'nowhere'")
    with pytest.raises(Misuse, match="row 1"):
        check(load(relay_file=file, upstream="http://h"))
