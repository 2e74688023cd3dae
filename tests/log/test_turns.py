"""Which batch goes when: the database is never kept waiting, and no stream is in two batches at a time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg
import pytest

from gateway.feed import Feed
from gateway.log.appends import ALONE, CALL, CALL_ALONE
from gateway.log.writer import TOLD, Writer
from gateway.protocol.append import AppendRequest
from gateway.protocol.errors import NotSent, StreamHeld, Unavailable
from tests.log.rig import Others


class Database:
    """Accepts everything, one batch each time that it is let; it is its own lanes."""

    def __init__(self, said: list[str]) -> None:
        self._said = said
        self.asked = asyncio.Semaphore(0)
        self.let = asyncio.Semaphore(0)

    def lane(self, _: float) -> Database:
        return self

    async def fetchrow(self, _: str, path: str, *__: object) -> dict[str, Any]:
        self._said.append(f"sent {path}")
        self.asked.release()
        await self.let.acquire()
        return {"tail": 1, "cancel_requested": False}

    async def close(self) -> None: ...


async def test_the_next_batch_is_sent_before_the_last_is_answered() -> None:
    said: list[str] = []
    database = Database(said)
    feed = Feed()
    feed.committed.subscribe(lambda news: said.append(f"told {news.path}"))
    writer = Writer(
        cast("Any", database),
        others=Others(),
        lanes=2,
        timeout=60,
        max_pending=1 << 20,
        feed=feed,
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


class Rows:
    """A database in which somebody holds rows; each batch is answered when it is let. It is its own lanes, too."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.sent: list[tuple[list[str], asyncio.Event]] = []
        self.arrived = asyncio.Semaphore(0)
        self.events: list[bytes] = []

    def lane(self, _: float) -> Rows:
        return self

    async def fetchrow(self, statement: str, *arguments: Any) -> dict[str, Any]:
        if statement not in (CALL, CALL_ALONE, ALONE):
            return {"paths": await self.fetchval(statement, *arguments)}
        paths, events = (arguments[1], arguments[11]) if statement == CALL else ([arguments[0]], arguments[2])
        if self.held & set(paths):
            raise StreamHeld
        let = asyncio.Event()
        self.sent.append((paths, let))
        self.events += events
        self.arrived.release()
        await let.wait()
        some = [None] * len(paths)
        accepted = {
            "verdicts": ["appended" for _ in paths],
            "tails": [1 for _ in paths],
            "closed": [False for _ in paths],
        }
        more = {"cancels": some, "known_epochs": some, "known_seqs": some}
        return {**accepted, **more, "tail": 1, "cancel_requested": False}

    async def fetchval(self, _: str, paths: list[str], *which: list[bool]) -> list[str]:
        return [path for path in paths if path in self.held]

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Rows]:
        yield self

    async def close(self) -> None: ...


def writer_of(rows: Rows, timeout: float = 60) -> Writer:
    return Writer(
        cast("Any", rows),
        others=Others(),
        lanes=3,
        timeout=timeout,
        max_pending=1 << 20,
        feed=Feed(),
    )


async def test_a_stream_whose_row_was_held_is_in_one_batch_at_a_time() -> None:
    """Its first append goes on while its neighbour of before is still on its way: the second has to wait for both."""
    rows = Rows()
    writer = writer_of(rows)

    def append(path: str) -> asyncio.Task[Any]:
        return asyncio.create_task(writer.append(AppendRequest(path, "application/json", [b"1"])))

    async with asyncio.timeout(60):
        warm = append("warm")  # so that what comes behind it gathers
        await rows.arrived.acquire()
        rows.held = {"a"}
        both = [append("a"), append("b")]
        await asyncio.sleep(0)
        rows.sent[0][1].set()
        await rows.arrived.acquire()
        rows.held = set()
        await rows.arrived.acquire()
        assert [paths for paths, _ in rows.sent] == [["warm"], ["b"], ["a"]]
        rows.sent[1][1].set()
        await asyncio.gather(warm, both[1])
        again = append("a")
        await asyncio.sleep(0.05)  # far longer than anything that may go is kept
        assert len(rows.sent) == 3, "two batches hold one stream: its second append may come before its first"
        rows.sent[2][1].set()
        await rows.arrived.acquire()
        rows.sent[3][1].set()
        await asyncio.gather(both[0], again)
        await writer.close()


async def test_parked_appends_keep_their_place() -> None:
    rows = Rows()
    rows.held = {"a"}
    writer = writer_of(rows)
    appends: list[asyncio.Task[Any]] = []

    def append(path: str, event: bytes) -> None:
        appends.append(asyncio.create_task(writer.append(AppendRequest(path, "application/json", [event]))))

    async with asyncio.timeout(60):
        append("warm", b"0")  # so that what comes behind it gathers
        await rows.arrived.acquire()
        append("a", b"1")
        append("a", b"2")
        await asyncio.sleep(0)
        rows.sent[0][1].set()
        await appends[0]
        append("a", b"3")
        append("a", b"4")
        await asyncio.sleep(0)
        rows.held = set()
        await rows.arrived.acquire()
        rows.sent[1][1].set()
        await asyncio.gather(*appends)
        assert b"".join(rows.events) == b"01234"
        await writer.close()


async def test_every_batch_names_its_streams_in_the_order_of_locks() -> None:
    """That of the bytes, as Postgres's collation "C" has it: so no two batches wait for each other."""
    rows = Rows()
    writer = writer_of(rows)
    paths = [
        "runs/b",
        "runs/é",
        "runs/B",
        "runs/\U0001f600",
        "runs/\uff5e",
        "acme\x1fruns/a",
        "runs/a/control",
        "runs/a",
    ]
    async with asyncio.timeout(60):
        warm = asyncio.create_task(writer.append(AppendRequest("warm", "application/json", [b"0"])))
        await rows.arrived.acquire()
        appends = [asyncio.create_task(writer.append(AppendRequest(path, "text/plain", [b"1"]))) for path in paths]
        await asyncio.sleep(0)
        rows.sent[0][1].set()
        await rows.arrived.acquire()
        rows.sent[1][1].set()
        await asyncio.gather(warm, *appends)
    assert rows.sent[1][0] == sorted(paths, key=str.encode)
    await writer.close()


async def test_what_cannot_be_sent_in_time_is_refused_and_not_sent() -> None:
    """Before its turn comes: what is before it may take for ever."""
    rows = Rows()
    writer = writer_of(rows, timeout=0.1)

    def append(path: str, event: bytes) -> asyncio.Task[Any]:
        return asyncio.create_task(writer.append(AppendRequest(path, "application/json", [event])))

    async with asyncio.timeout(60):
        under_way = []
        for path in "abc":  # as many as there are lanes
            under_way.append(append(path, b"1"))
            await rows.arrived.acquire()
        late = [append("a", b"2"), append("d", b"2")]
        outcomes = await asyncio.gather(*late, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [NotSent, NotSent]
        assert not any(task.done() for task in under_way)
        for _, let in rows.sent:
            let.set()
        await asyncio.gather(*under_way)
        await writer.close()
    assert rows.events == [b"1", b"1", b"1"]
    assert writer.outcomes == {"appended": 3, "refused": 2}


async def test_an_unexpected_fault_of_a_look_at_held_rows_is_survived() -> None:
    rows = Rows()
    rows.held = {"a"}
    writer = writer_of(rows)
    faults = 0

    async def held(paths: list[str]) -> list[str]:
        nonlocal faults
        faults += 1
        if faults == 1:
            raise RuntimeError
        if faults == 2:
            raise Unavailable
        rows.held = set()
        return []

    writer._held_rows._held = held
    async with asyncio.timeout(60):
        appended = asyncio.create_task(writer.append(AppendRequest("a", "application/json", [b"1"])))
        await rows.arrived.acquire()
        rows.sent[0][1].set()
        await appended
        await writer.close()


async def test_requests_tried_one_by_one_for_too_long_are_all_answered() -> None:
    """A fault of one makes all of a batch be tried alone, which takes time, and the database may be slow by then."""
    asked: list[list[str]] = []

    class Slow(Rows):
        async def fetchrow(self, statement: str, *arguments: Any) -> dict[str, Any]:
            paths = arguments[1] if statement == CALL else [arguments[0]]
            asked.append(paths)
            if len(paths) > 1:
                raise Unavailable from asyncpg.DataError()
            if paths == ["b"]:
                await asyncio.sleep(0.3)
                raise Unavailable from TimeoutError()
            return {"tail": 1, "cancel_requested": False}

    writer = writer_of(Slow(), timeout=0.1)
    writer._crowd = 3
    appends = [asyncio.create_task(writer.append(AppendRequest(path, "application/json", [b"1"]))) for path in "abc"]
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    await writer.close()
    assert [type(outcome).__name__ for outcome in outcomes] == ["Appended", "Unavailable", "NotSent"]
    assert asked == [["a", "b", "c"], ["a"], ["b"]]


@pytest.mark.parametrize("streams", [1, 1_000])
async def test_a_large_batch_is_told_in_several_turns_of_the_loop(streams: int) -> None:
    rows = Rows()
    writer = writer_of(rows)
    turn, told = 0, Counter[int]()

    async def count() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    for n in range(1_000):
        request = AppendRequest(f"s{n % streams}", "application/json", [b"1"])
        writer.submit(request, lambda _: told.update([turn]))
    async with asyncio.timeout(60):
        counting = asyncio.create_task(count())
        while told.total() < 1_000:
            await asyncio.sleep(0)
            for _, let in rows.sent:
                let.set()
        counting.cancel()
        await writer.close()
    assert max(told.values()) <= TOLD
