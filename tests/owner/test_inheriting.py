"""What a dead Machine has left goes on at another one, also where its application fails for some of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from gateway.http.upstream import BadGateway
from gateway.log.database import Database
from gateway.owner.inheriting import Inheriting, nothing_recorded
from gateway.owner.rows import Key, Row
from gateway.owner.store import Store

ROW = Row("chat", "/chat/{id}")
IDS = [b"one", b"rogue", b"two"]


class Working:
    """All conversations are busy. `faults`: times that it cannot be asked; `rogue` cannot be gone on with."""

    def __init__(self, faults: int = 0) -> None:
        self.faults = faults
        self.revived: set[bytes] = set()

    async def busy(self, ids: Sequence[bytes]) -> Collection[bytes]:
        self._fail()
        return ids

    async def revive(self, ids: Sequence[bytes]) -> None:
        if b"rogue" in ids:
            raise BadGateway
        self.revived |= set(ids)

    def _fail(self) -> None:
        self.faults -= 1
        if self.faults >= 0:
            raise BadGateway


@pytest_asyncio.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with Database(database_url, pool_size=1, statement_timeout=10) as database:
        store = Store(database, 10)
        yield store
        await store.close()


async def left(store: Store) -> int:
    """A life that has ended, and what it had. Returns an heir."""
    dead, heir = [await store.begin(uuid4(), "http://127.0.0.1:1", None, "app") for _ in range(2)]
    for id in IDS:
        await store.own(Key.of(ROW, id), dead)
    await store.end(dead)
    return heir


async def test_what_one_conversation_fails_keeps_no_other(store: Store) -> None:
    heir, work = await left(store), Working()
    lives: Any = SimpleNamespace(life=heir, can_take=True)
    inheriting = Inheriting(lives, store, {ROW.name: work}, nothing_recorded)
    for _ in range(2):
        await inheriting()
    assert work.revived == {b"one", b"two"}
    assert await store.inherit(heir) is None  # settled: the rogue is tried again, and holds up nothing


async def test_an_heir_whose_application_was_away_goes_on(store: Store) -> None:
    heir, work = await left(store), Working(faults=1)
    lives: Any = SimpleNamespace(life=heir, can_take=True)
    inheriting = Inheriting(lives, store, {ROW.name: work}, nothing_recorded)
    with pytest.raises(BadGateway):
        await inheriting()
    for _ in range(2):
        await inheriting()
    assert work.revived == {b"one", b"two"}
