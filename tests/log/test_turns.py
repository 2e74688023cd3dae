"""The database is never kept waiting: what has gathered is on its way before the outcomes of the last are told."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from gateway.log.writer import Writer
from gateway.protocol.append import AppendRequest


class Database:
    """Accepts everything, one batch each time that it is let; it is its own lanes."""

    def __init__(self, said: list[str]) -> None:
        self._said = said
        self.asked = asyncio.Semaphore(0)
        self.let = asyncio.Semaphore(0)

    def lane(self, _: float) -> Database:
        return self

    async def fetchrow(self, _: str, __: str | None, paths: list[str], *___: object) -> dict[str, Any]:
        self._said.append(f"sent {paths[0]}")
        self.asked.release()
        await self.let.acquire()
        accepted: dict[str, Any] = {"verdicts": ["appended"], "tails": [1], "closed": [False], "cancels": [False]}
        return accepted | {"known_epochs": [None], "known_seqs": [None]}

    async def close(self) -> None: ...


async def test_the_next_batch_is_sent_before_the_outcomes_of_the_last_are_told() -> None:
    said: list[str] = []
    database = Database(said)
    writer = Writer(
        cast("Any", database),
        machine=lambda: None,
        lanes=2,
        timeout=1,
        max_pending=10_000,
        on_commit=lambda news: said.append(f"told {news.path}"),
        on_doubt=lambda _: None,
    )
    first = asyncio.create_task(writer.append(AppendRequest("first", "application/json", [b"1"])))
    await database.asked.acquire()
    second = asyncio.create_task(writer.append(AppendRequest("second", "application/json", [b"1"])))
    await asyncio.sleep(0)  # it waits behind the first
    database.let.release()
    await first
    database.let.release()
    await second
    assert said == ["sent first", "sent second", "told first", "told second"]
    await writer.close()
