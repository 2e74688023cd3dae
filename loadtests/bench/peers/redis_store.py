"""Redis Streams: XADD, XRANGE and XREAD BLOCK, by redis-py with hiredis."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

from redis.asyncio import Redis
from redis.exceptions import RedisError

from loadtests.bench.peers.store import START, Events, Gone, Id

PORT = int(os.environ["BENCH_STORE_PORT"])
FIELD = b"e"
PAGE = 1_000


@contextmanager
def _gone() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise Gone(str(error)) from error


class RedisStore:
    def __init__(self) -> None:
        # As many connections as are used at once, and an XREAD that blocks has its own. Redis flushes once for all that
        # it has read in a turn. RESP2, since redis-py reads it faster.
        self._redis = Redis(port=PORT, max_connections=20_000, socket_timeout=None, protocol=2)

    async def append(self, run: str, events: Sequence[bytes], name: str | None) -> None:
        """Redis 7 has no use for the name."""
        with _gone():
            if len(events) == 1:
                await self._redis.xadd(run, {FIELD: events[0]})
                return
            async with self._redis.pipeline(transaction=True) as pipe:
                for event in events:
                    pipe.xadd(run, {FIELD: event})
                await pipe.execute()

    async def last(self, run: str) -> Id:
        with _gone():
            found = await self._redis.xrevrange(run, count=1)
        return _id(found[0][0]) if found else START

    async def page(self, run: str, after: Id, count: int) -> Events:
        with _gone():
            return _events(await self._redis.xrange(run, min="({}-{}".format(*after), count=count))

    async def follow(self, run: str, after: Id) -> AsyncIterator[Events]:
        while True:
            with _gone():
                ((_, entries),) = await self._redis.xread({run: "{}-{}".format(*after)}, count=PAGE, block=0)
            events = _events(entries)
            after = events[-1][0]
            yield events


def _events(entries: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> list[tuple[Id, bytes]]:
    return [(_id(name), fields[FIELD]) for name, fields in entries]


def _id(text: bytes) -> Id:
    milliseconds, _, sequence = text.partition(b"-")
    return int(milliseconds), int(sequence)
