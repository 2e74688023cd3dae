"""Who is answered from rows, who by the app, and how a conversation is followed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.asgi import Scope
from gateway.auth.errors import TokenExpired
from gateway.flue import schema
from gateway.flue.conversations.source import Source
from gateway.flue.conversations.wire import FIRST_PAGE
from gateway.http.replay import STAYS
from gateway.log.payload import parse_news
from gateway.protocol.errors import Unavailable
from tests.databases import Postgres
from tests.flue.conversations.recorded import recording, written
from tests.flue.conversations.rig import Client, Room, room, tables

CHAT = recording("chat")
FROM = 20  # batches that are there at first
HEAD = f"{0:016}_{FROM - 1:016}"
SSE = f"view=updates&offset={HEAD}&live=sse"
LONG_POLL = f"view=updates&offset={HEAD}&live=long-poll"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def url(postgres: Postgres) -> AsyncIterator[str]:
    async with tables(postgres) as url:
        yield url


@pytest_asyncio.fixture
async def there(url: str) -> AsyncIterator[Room]:
    async with room(url, CHAT, FROM) as there:
        yield there


def shown(body: bytes) -> list[object]:
    """The chunks of an event stream, but for the checkpoints."""
    lines = [line.removeprefix(b"data:") for line in body.split(b"\n") if line.startswith(b"data:[")]
    return [chunk for line in lines for chunk in json.loads(line) if chunk["type"] != "stream-checkpoint"]


async def test_the_second_answer_is_from_rows(there: Room) -> None:
    first = await there.ask().whole()
    assert await there.ask().whole() == first
    await there.ask("view=updates&offset=-1").whole()
    assert (there.app.asked, there.by) == ([b""], {"rows": 2, "app": 1})


@pytest.mark.parametrize("query", ["", SSE])
async def test_a_credential_that_is_good_no_more_reads_no_rows(there: Room, query: str) -> None:
    await there.ask().whole()
    known = {"rows": 0, "app": 1}

    async def refuse(scope: Scope) -> None:
        raise TokenExpired

    there.behind = there.conversations.readers.before(there.app, refuse)
    with pytest.raises(TokenExpired):
        await there.ask(query).task
    assert there.by == known and len(there.app.asked) == 1


@pytest.mark.parametrize("query", ["", "view=updates&offset=-1", SSE])
async def test_an_app_that_says_something_else_goes_on_answering(there: Room, query: str) -> None:
    """As one whose own layers hide from some what is not for them."""
    there.app.alter = lambda body: body.replace(b"gateway", b"*******")
    for _ in range(2):
        await there.ask(query).whole()
    assert there.by == {"rows": 0, "app": 2}


async def test_a_history_of_another_moment_tells_nothing(there: Room) -> None:
    there.app.count = FROM - 1
    for _ in range(2):
        await there.ask().whole()
    assert there.by == {"rows": 0, "app": 2}


async def test_that_nothing_is_new_tells_nothing(there: Room) -> None:
    for _ in range(2):
        await there.ask(f"view=updates&offset={HEAD}").whole()
    assert there.by == {"rows": 0, "app": 2}


@pytest.mark.parametrize("who", [{"authorization": "Bearer b"}, {"cookie": "b"}, {"x-key": "b"}])
async def test_each_client_is_asked_about_for_itself(there: Room, who: dict[str, str]) -> None:
    for headers in ({}, who, {}, who):
        await there.ask(**headers).whole()
    assert there.by == {"rows": 2, "app": 2}


async def test_whoever_follows_is_asked_about_by_the_first_page(there: Room) -> None:
    reader = there.ask(SSE)
    await reader.until(b"upToDate")
    await there.write(FROM, 36)
    await reader.until(b"_0000000000000035")
    assert there.app.asked == [FIRST_PAGE]
    assert written([CHAT.updates[0], *shown(reader.body)]) == written(CHAT.after(FROM))
    assert (reader.status, reader.headers[b"content-type"]) == (200, b"text/event-stream")
    reader.leave()
    await reader.whole()
    assert there.limits.readers.sse.count == 0


async def test_a_long_poll_gets_what_comes(there: Room) -> None:
    reader = there.ask(LONG_POLL)
    await there.write(FROM, 36)
    *_, last = json.loads(await reader.whole())
    assert last["position"]["batch"] >= FROM
    assert reader.headers[b"stream-up-to-date"] == b"true"


async def test_a_long_poll_without_news_ends_at_its_offset(there: Room) -> None:
    reader = there.ask(LONG_POLL)
    checkpoint = {"type": "stream-checkpoint", "incarnation": there.incarnation}
    assert await reader.whole() == written([checkpoint])
    assert reader.headers[b"stream-next-offset"] == HEAD.encode()
    assert there.limits.readers.long_polls.count == 0


@pytest.mark.parametrize("status", [401, 403, 404, 500])
async def test_whom_the_app_refuses_it_answers_itself(there: Room, status: int) -> None:
    there.app.status = status
    reader = there.ask(SSE)
    await reader.whole()
    assert (reader.status, there.app.asked) == (status, [FIRST_PAGE, SSE.encode()])


async def test_a_refusal_takes_back_what_was_said_before(there: Room) -> None:
    await there.ask().whole()
    there.app.status = 403
    await there.ask("view=updates&offset=now").whole()  # such queries tell nothing
    await there.ask().whole()
    assert there.by["rows"] == 1


@pytest.mark.parametrize(
    ("method", "id", "query"),
    [
        *(("POST", "c", ""), ("HEAD", "c", ""), ("GET", "c/abort", ""), ("GET", "c", "view=updates"), ("GET", "", "")),
        *(("GET", "a%2Fb", ""), ("GET", "..", ""), ("GET", "c;d", ""), ("GET", "c+d", ""), ("GET", "c", "token=1")),
    ],
)
async def test_what_is_no_read_of_a_conversation_goes_on(there: Room, method: str, id: str, query: str) -> None:
    await Client(there.behind, id, query, method).whole()
    assert (there.app.asked, there.by, STAYS in there.app.scopes[0]) == ([query.encode()], {"rows": 0, "app": 0}, False)


async def test_what_another_gateway_sends_goes_on(there: Room) -> None:
    await there.ask().whole()
    await Client(there.behind, there.id, "", relayed=True).whole()
    assert there.by == {"rows": 0, "app": 1}


async def test_the_answer_that_tells_has_to_pass_by_here(there: Room) -> None:
    await there.ask().whole()
    assert there.app.scopes[0][STAYS] is True


async def test_what_the_app_says_on_all_answers_is_said_from_rows(there: Room) -> None:
    there.app.more = [(b"access-control-allow-origin", b"https://app.example")]
    await there.ask(origin="https://app.example").whole()
    for query in ("", "view=updates&offset=-1", LONG_POLL):
        reader = there.ask(query, origin="https://app.example")
        await reader.whole()
        assert reader.headers[b"access-control-allow-origin"] == b"https://app.example"
        assert reader.headers[b"x-content-type-options"] == b"nosniff"
    assert there.by == {"rows": 3, "app": 1}


async def test_an_offset_beyond_the_head_is_for_the_app(there: Room) -> None:
    await there.ask().whole()
    for live in ("", "&live=sse", "&live=long-poll"):
        await there.ask(f"view=updates&offset={0:016}_{99:016}{live}").whole()
    assert there.by == {"rows": 0, "app": 4}


async def test_a_follower_of_what_becomes_unreadable_comes_back(there: Room) -> None:
    reader = there.ask(SSE)
    await reader.until(b"upToDate")
    odd = [{**json.loads(CHAT.batches[3])[0], "id": "record_odd", "type": "whisper"}]
    await there.connection.execute(
        "WITH grown AS (UPDATE flue_conversation_streams SET next_offset = next_offset + 1 WHERE path = $1)"
        " INSERT INTO flue_conversation_stream_batches (path, seq, data) VALUES ($1, $2, $3)",
        *(there.path, FROM, written(odd).decode()),
    )
    await reader.whole()
    await there.ask(SSE).whole()
    assert there.app.asked[-1] == SSE.encode()


async def test_a_follower_of_a_stream_that_is_replaced_comes_back(there: Room) -> None:
    reader, waiting = there.ask(SSE), there.ask(LONG_POLL)
    await reader.until(b"upToDate")
    await there.connection.execute(
        "UPDATE flue_conversation_streams SET incarnation = 'inc_2' WHERE path = $1", there.path
    )
    await reader.whole()
    await waiting.whole()
    await there.ask().whole()
    assert there.by["app"] >= 1


async def test_a_drain_ends_a_follower_cleanly(there: Room) -> None:
    reader = there.ask(SSE)
    await reader.until(b"upToDate")
    there.conversations.hub.drain(0)
    await reader.whole()
    await there.ask(SSE).whole()
    assert there.app.asked == [FIRST_PAGE, SSE.encode()]


async def test_readers_beyond_the_limit_go_to_the_app(there: Room) -> None:
    readers = [there.ask(SSE) for _ in range(3)]
    for reader in readers:
        await reader.until(b"upToDate")
    await there.ask(SSE).whole()
    assert there.by == {"rows": 3, "app": 1}
    for reader in readers:
        reader.leave()
        await reader.whole()


async def test_without_the_database_the_app_answers(there: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(self: Source, path: str) -> None:
        raise Unavailable

    await there.ask().whole()
    monkeypatch.setattr(Source, "read", away)
    await there.ask().whole()
    await there.ask(SSE).whole()
    assert there.by == {"rows": 0, "app": 3}


async def test_triggers_tell_of_each_batch(url: str) -> None:
    """No sweep looks here: what comes has been told."""
    async with room(url, CHAT, FROM, listens=True) as there:
        await there.connection.execute("CREATE TABLE flue_meta (key text PRIMARY KEY, value text NOT NULL)")
        await there.connection.execute("INSERT INTO flue_meta VALUES ('format_version', '1')")
        await schema.attach(there.connection)
        try:
            told: list[str] = []
            channel = await there.connection.fetchval("SELECT name FROM run_gateway.channel")
            await there.connection.add_listener(channel, lambda *said: told.append(str(said[-1])))
            await there.conversations._triggers.look()
            assert there.conversations.news == "triggers"
            reader = there.ask(SSE)
            await reader.until(b"upToDate")
            for at in range(FROM, 36):
                await there.write(at, at + 1)
                await there.connection.fetchval("SELECT 1")  # what was told has come
                news = parse_news(told[-1])
                assert news is not None
                assert (news.path, news.first, news.last) == (f"\x1f{there.path}", at + 1, at + 1)
                there.conversations.notifications.heard(news)
                await reader.until(f"_{at:016}".encode())
            assert written([CHAT.updates[0], *shown(reader.body)]) == written(CHAT.after(FROM))
        finally:
            await schema.detach(there.connection)
            await there.connection.execute("DROP TABLE flue_meta")
