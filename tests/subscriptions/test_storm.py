"""Everything at once, in any order: nobody waits in a circle, and no stream is missed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import asyncpg
import pytest

from gateway.log.database import Database
from gateway.protocol.errors import Unavailable
from gateway.subscriptions.errors import Refusal
from gateway.subscriptions.rules import Ack, Settlement
from gateway.subscriptions.store import Store
from tests.subscriptions.tools import Streams, wanted

PATHS = [f"runs/{number}" for number in range(10)]
IDS = ["a", "b", "c"]


class Storm:
    """Random steps over few streams and subscriptions, so that they get in each other's way."""

    def __init__(self, database: Database, seed: int) -> None:
        self._store = Store(database)
        self._streams = Streams(database)
        self._chance = random.Random(seed)

    async def run(self, steps: int) -> None:
        deeds: Sequence[Callable[[str, str], Awaitable[object]]] = [
            lambda path, _: self._streams.create(path, b"1"),
            lambda path, _: self._streams.append(path),
            lambda path, _: self._streams.append(path),
            lambda path, _: self._streams.delete(path),
            lambda path, _: self._streams.create(path, fork_of=self._chance.choice([*PATHS, "wake"])),
            lambda _, name: self._subscribe(name),
            lambda _, name: self._store.delete(name),
            lambda _, name: self._store.add_streams(name, self._chance.sample(PATHS, 4)),
            lambda path, name: self._store.remove_stream(name, path),
            lambda _, name: self._work(name),
            lambda _, name: self._work(name),
            lambda *_: self._look(),
            lambda *_: self._store.tidy(50),
        ]
        for _ in range(steps):
            try:
                with suppress(Refusal):
                    await self._chance.choice(deeds)(self._chance.choice(PATHS), self._chance.choice(IDS))
            except Unavailable as error:
                if not isinstance(error.__cause__, asyncpg.NoDataFoundError):  # an append to no stream
                    raise

    async def _subscribe(self, id: str) -> None:
        streams = self._chance.sample(PATHS, 2)
        await self._store.create(id, wanted(type="pull-wake", pattern="**", streams=streams, wake_stream="wake"))

    async def _work(self, id: str) -> None:
        claim = await self._store.claim(id, "w")
        acks = tuple(Ack(link.path, link.tail) for link in claim.links if link.pending)
        await self._store.settle(
            id, None, claim.generation, Settlement(claim.generation, claim.wake_id, acks[:1], False)
        )
        await self._store.settle(id, None, claim.generation, Settlement(claim.generation, claim.wake_id, (), True))

    async def _look(self) -> None:
        await self._store.wake(dict(await self._store.neglected(50)), patient=self._chance.random() < 0.3)


@pytest.mark.parametrize("seed", [1, 2])
async def test_whatever_happens_at_once_every_live_stream_is_linked(database: Database, seed: int) -> None:
    store, streams = Store(database), Streams(database)
    await streams.create("wake")
    await store.create("throughout", wanted(type="pull-wake", pattern="**", wake_stream="wake"))
    await asyncio.gather(*(Storm(database, seed * 100 + lane).run(150) for lane in range(6)))
    live = set(await streams.value("SELECT array_agg(path) FROM run_gateway.streams WHERE NOT gone AND path <> 'wake'"))
    for id in ["throughout", *IDS]:
        with suppress(Refusal):
            linked = (await store.get(id)).links
            assert live <= {link.path for link in linked}
            assert {link.path for link in linked if not link.explicit} <= live
