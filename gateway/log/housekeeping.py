"""Background work on the log: events at rest are packed, old streams removed, and the rows of removed ones purged.

One Machine at a time, in small steps with pauses in between, so that appends and reads go first. Each step is one
transaction: a Machine that dies in the middle of it leaves nothing half done, and another goes on.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final

from gateway.log.database import Database
from gateway.outage import Outage
from gateway.protocol.errors import StreamHeld, Unavailable
from gateway.tasks import forever

logger = logging.getLogger("gateway.log.housekeeping")

PAGE_BYTES: Final = 64 << 10  # of a page before it is compressed: what a live reader is sent at once (reader.LIVE_PAGE)
PAGE_EVENTS: Final = 1_000  # in a page at most, so that one of an open stream is full whatever the size of its events
MARGIN: Final = 500  # last events of an open stream that stay rows: they are read most, and every reader begins there
HOLD: Final = timedelta(seconds=10)  # for which a Machine that has vanished still keeps the others away
PAUSE: Final = 3.0  # times the duration of the step before: the slower the database, the longer it is left alone
LEAST_PAUSE: Final = 0.002  # seconds
LONG: Final = 0.05  # seconds of a step, after which the next one does half as much
ENDED: Final = 100  # streams that a step of a retention removes at most
ROWS: Final = 5_000  # that a step of a purge removes at most, some more of removed streams' own aside
STREAMS: Final = 1_000  # examined in one step
SILENCE: Final = timedelta(minutes=5)  # after which, or twice of it, an open stream is packed whatever its length
WHOLE: Final = 50  # streams packed in one step at most

_STEP: Final = "SELECT CASE WHEN run_gateway.keeps_house($1, $2) THEN run_gateway.{} END"
_PACK: Final = _STEP.format("pack_page($3, $4, $5, $6)")
_PACK_WHOLE: Final = _STEP.format("pack_whole($3, $4, $5)")
_SILENCE: Final = _STEP.format("silence($3)")
_RETIRE: Final = _STEP.format("retire_next(coalesce($3, '-infinity'::timestamptz), $4, $5)")
_RETIRE_RECORDINGS: Final = _STEP.format("retire_next_recordings($3, $4, $5)")
_FORGET_KEYS: Final = _STEP.format("forget_next_keys($3, $4)")
_PURGE: Final = _STEP.format("purge_next($3, $4)")
_PACKABLE: Final = "SELECT ids, whole, until FROM run_gateway.packable_v2($1, $2, $3, $4)"


class KeptElsewhere(Exception):
    """Another Machine does the housekeeping at the moment."""


class Stride:
    """How much a step does: half as much after one that was LONG, twice as much after another, at most `most`.

    What nobody has read for long comes from the disk: a step is to be short whatever it finds there.
    """

    def __init__(self, most: int) -> None:
        self.length = self._most = most

    def note(self, seconds: float) -> None:
        """Takes note of how long the last step took."""
        self.length = max(self.length // 2, 1) if seconds > LONG else min(self.length * 2, self._most)


class Housekeeping:
    """The background work of a Machine over its log.

    `interval`: seconds between two rounds, give or take a half. `retention`: seconds that a closed stream is kept;
    `recordings`: those that a recording of the relay is, if it is less. `silence`: after which, or twice of which,
    all of an open stream is packed.
    """

    def __init__(
        self,
        database: Database,
        *,
        machine: str,
        interval: float,
        pack: bool = True,
        retention: float | None = None,
        recordings: float | None = None,
        silence: timedelta = SILENCE,
    ) -> None:
        self.packed = 0  # pages
        self.purged = 0  # rows
        self._database = database
        self._machine = machine
        self._interval = interval
        self._pack = pack
        self._retention = retention
        self._recordings = recordings
        self._silence = silence
        self._outage = Outage(
            logger, "Housekeeping waits for the database (%r).", "Housekeeping goes on.", within=database.away
        )
        self._ended, self._rows = Stride(ENDED), Stride(ROWS)
        # As far as these have come: a look at nothing is made from the beginning.
        self._closed: datetime | None = None
        self._removed = 0
        self._recording = 0  # that was looked at last
        self._key = b""  # and the key
        self._after = 0  # the stream examined last, so that one that cannot be packed does not block the others
        self._took = 0.0  # seconds, by the last step
        self._quiet = 0  # transactions since the silence began that counts in this round

    async def run(self) -> None:
        """Rounds, until cancelled."""
        await forever(
            "Housekeeping", self._turn, lambda: self._interval * random.uniform(0.5, 1.5), self._outage, late=True
        )

    async def _turn(self) -> None:
        """A round, unless another Machine does the housekeeping. Raises Unavailable."""
        packed, purged = self.packed, self.purged
        try:
            with suppress(KeptElsewhere):
                await self.round()
        finally:
            if (self.packed, self.purged) != (packed, purged):
                logger.info("Packed pages: %d, purged rows: %d.", self.packed - packed, self.purged - purged)

    async def round(self) -> None:
        """Does everything that there is to do now. A step that fails keeps no other from its turn.

        Raises KeptElsewhere, Unavailable: the first that a step has raised, after the others.
        """
        steps: list[Callable[[], Awaitable[object]]] = [self.purge]
        if self._retention is not None:
            keep = self._retention
            steps.insert(0, lambda: self.retire(keep))
        if self._recordings is not None:
            kept = self._recordings
            steps[:0] = [lambda: self.retire_recordings(kept), self.forget_keys]
        if self._pack:
            steps.append(self.pack)
        failed: Exception | None = None
        for step in steps:
            try:
                while await step():
                    pass
            except KeptElsewhere:
                raise
            except Exception as error:  # noqa: BLE001  raised below
                failed = failed or error
        if failed is not None:
            raise failed

    async def retire(self, keep: float, most: int | None = None) -> int:
        """Removes some streams that were closed more than `keep` seconds ago; returns how many.

        Raises KeptElsewhere, Unavailable.
        """
        after, for_long = self._closed, timedelta(seconds=keep)
        removed, self._closed = await self._step(_RETIRE, after, for_long, most or self._ended.length)
        self._ended.note(self._took)
        if not removed:
            self._closed = None
            if after is not None:
                return await self.retire(keep, most)
        return int(removed)

    async def retire_recordings(self, keep: float) -> bool:
        """Removes those of the next recordings that ended more than `keep` seconds ago. Returns whether there are more.

        Raises KeptElsewhere, Unavailable.
        """
        self._recording = int(await self._step(_RETIRE_RECORDINGS, self._recording, timedelta(seconds=keep), STREAMS))
        return self._recording > 0

    async def forget_keys(self) -> bool:
        """Removes those of the next keys of recordings that lead nowhere any more. Returns and raises as above."""
        self._key = bytes(await self._step(_FORGET_KEYS, self._key, STREAMS))
        return self._key != b""

    async def purge(self, most: int | None = None) -> int:
        """Removes what has expired, and some rows of what was removed before. Returns how many rows it deleted.

        Raises KeptElsewhere, Unavailable.
        """
        after = self._removed
        rows, self._removed = await self._step(_PURGE, after, most or self._rows.length)
        self._rows.note(self._took)
        self.purged += rows
        if not rows:
            self._removed = 0
            if after:
                return await self.purge(most)
        return int(rows)

    async def pack(self) -> bool:
        """Packs what can be packed of the next streams. Returns whether there are more. Raises what `purge` raises."""
        if not self._after:
            self._quiet = int(await self._step(_SILENCE, self._silence))
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(_PACKABLE, self._after, STREAMS, PAGE_EVENTS + MARGIN, self._quiet)
        assert row is not None, "an aggregate is one row"
        failed = await self._pack_whole(row["whole"] or ())
        for stream in row["ids"] or ():
            self._after = stream
            with suppress(StreamHeld):  # left for another round
                while await self._step(_PACK, stream, PAGE_BYTES, PAGE_EVENTS, MARGIN):
                    self.packed += 1
        self._after = row["until"] or 0
        if failed:
            raise Unavailable(f"{failed} streams cannot be packed. The database's log says why.")
        return row["until"] is not None

    async def _pack_whole(self, streams: Sequence[int]) -> int:
        """Packs all of these streams. Returns how many cannot be packed. Raises what `purge` raises."""
        failed = 0
        while streams:
            self._after = streams[0]
            seen, pages, refused = await self._step(_PACK_WHOLE, streams[:WHOLE], PAGE_BYTES, PAGE_EVENTS)
            streams = streams[seen:]
            self.packed += pages
            failed += refused
        return failed

    async def _step(self, statement: str, *arguments: object) -> Any:
        clock = asyncio.get_running_loop().time
        began = clock()
        async with self._database.acquire() as connection:
            result = await connection.fetchval(statement, self._machine, HOLD, *arguments)
        if result is None:
            raise KeptElsewhere
        self._took = clock() - began
        await asyncio.sleep(max(self._took * PAUSE, LEAST_PAUSE))
        return result
