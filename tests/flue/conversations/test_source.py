"""Conversations as they are read from their rows, against a real Postgres."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Final
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from gateway.flue.conversations import source as limits
from gateway.flue.conversations.conversation import id_of
from gateway.flue.conversations.errors import Gone, Unreadable
from gateway.flue.conversations.source import Source
from gateway.log.database import Database
from tests.databases import Postgres
from tests.flue.conversations import rig
from tests.flue.conversations.recorded import recording
from tests.flue.conversations.rig import Connection, tables

CHAT: Final = recording("chat")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def url(postgres: Postgres) -> AsyncIterator[str]:
    async with tables(postgres) as url:
        yield url


@pytest_asyncio.fixture
async def connection(url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def source(url: str) -> AsyncIterator[Source]:
    async with Database(url, pool_size=2, statement_timeout=10) as database:
        yield Source(database)


@pytest.fixture
def path() -> str:
    return f"agents/Chat/{uuid4().hex}"


async def write(connection: Connection, path: str, batches: list[str], start: int = 0) -> None:
    await rig.write(connection, path, CHAT.incarnation, batches, start)


async def test_only_what_is_new_is_read(connection: Connection, source: Source, path: str) -> None:
    await write(connection, path, CHAT.batches[:20])
    assert (await source.read(path)).tail == 20
    await write(connection, path, CHAT.batches[20:], 20)
    first = await connection.fetchval("DELETE FROM flue_conversation_stream_batches WHERE path = $1 AND seq < 20", path)
    assert first is None
    conversation = await source.read(path)
    assert conversation.history() == CHAT.history
    assert source.reads == 2


async def test_readers_at_one_time_read_it_once(connection: Connection, source: Source, path: str) -> None:
    await write(connection, path, CHAT.batches)
    read = await asyncio.gather(*(source.read(path) for _ in range(8)))
    assert {id(each) for each in read} == {id(read[0])}
    assert read[0].history() == CHAT.history


async def test_a_long_conversation_is_read_in_parts(
    connection: Connection, source: Source, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "AT_ONCE", 3_000)
    await write(connection, path, CHAT.batches)
    assert (await source.read(path)).history() == CHAT.history
    assert source.reads > 5


async def test_what_is_not_there_is_gone(connection: Connection, source: Source, path: str) -> None:
    with pytest.raises(Gone):
        await source.read(path)
    await write(connection, path, CHAT.batches)
    await connection.execute("DELETE FROM flue_conversation_stream_batches WHERE path = $1 AND seq = 7", path)
    with pytest.raises(Gone):
        await source.read(path)
    await write(connection, path, CHAT.batches[7:8], 7)
    await connection.execute("UPDATE flue_conversation_streams SET next_offset = $2 WHERE path = $1", path, 36)
    assert (await source.read(path)).tail == 36  # whatever it was, it is there again
    await connection.execute("UPDATE flue_conversation_streams SET next_offset = $2 WHERE path = $1", path, 40)
    with pytest.raises(Gone):
        await source.read(path)


async def test_another_stream_in_its_place_is_read_anew(connection: Connection, source: Source, path: str) -> None:
    await write(connection, path, CHAT.batches)
    before = await source.read(path)
    await connection.execute("DELETE FROM flue_conversation_stream_batches WHERE path = $1 AND seq >= 9", path)
    await connection.execute(
        "UPDATE flue_conversation_streams SET incarnation = 'inc_2', next_offset = 9 WHERE path = $1", path
    )
    after = await source.read(path)
    assert (before.id, after.id, after.tail) == (id_of(CHAT.incarnation), id_of("inc_2"), 9)
    assert await source.positions([path, "agents/Chat/none"]) == {path: (after.id, 9, False)}


async def test_a_stream_is_found_by_its_incarnation(connection: Connection, source: Source, path: str) -> None:
    await write(connection, path, CHAT.batches[:1])
    await connection.execute("UPDATE flue_conversation_streams SET incarnation = $1 WHERE path = $1", path)
    assert await source.path_of(path) == path
    assert await source.path_of("inc_none") is None


async def test_another_version_of_flue_is_seen_by_its_folds(connection: Connection, source: Source, path: str) -> None:
    for version, known in ((limits.FOLD_FORMAT, True), (limits.FOLD_FORMAT + 1, False)):
        each = f"{path}{version}"
        await write(connection, each, CHAT.batches)
        await connection.execute(
            "INSERT INTO flue_conversation_fold_checkpoints VALUES ($1, '', $2, $3, '')",
            each,
            CHAT.incarnation,
            version,
        )
        if known:
            assert (await source.read(each)).tail == 36
        else:
            with pytest.raises(Unreadable):
                await source.read(each)


async def test_what_cannot_be_read_is_not_tried_again(connection: Connection, source: Source, path: str) -> None:
    odd = json.dumps([{"v": 1, "id": "r", "type": "whisper", "conversationId": "c"}], separators=(",", ":"))
    await write(connection, path, CHAT.batches)
    assert (await source.read(path)).tail == 36
    await write(connection, path, [odd], 36)
    for _ in range(2):
        with pytest.raises(Unreadable):
            await source.read(path)
    assert source.reads == 2


@pytest.mark.parametrize(("limit", "value"), [("LARGEST", 900), ("MOST", 20_000)])
async def test_what_is_too_large_is_left_to_the_app(
    connection: Connection, source: Source, path: str, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(limits, limit, value)
    await write(connection, path, CHAT.batches)
    with pytest.raises(Unreadable):
        await source.read(path)


async def test_only_so_much_is_kept(
    connection: Connection, source: Source, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(connection, path, CHAT.batches)
    await write(connection, f"{path}2", CHAT.batches)
    size = (await source.read(path)).size
    monkeypatch.setattr(limits, "KEPT", 2 * size - 1)
    for each, reads in ((path, 2), (f"{path}2", 3), (f"{path}2", 4), (path, 5)):
        assert (await source.read(each)).history() == CHAT.history
        assert source.reads == reads
    assert (await source.read(f"{path}2")).size == size
