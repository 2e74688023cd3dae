"""Flue's conversations, read from its tables for the hub and for readers. Nothing is written there.

Each read is one statement, so the head and the batches are one snapshot. Flue appends under a lock of the stream's row:
the order of its batches is that of their commits, and none is changed later on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final
from weakref import WeakValueDictionary

from gateway.flue.conversations.conversation import Conversation, id_of
from gateway.flue.conversations.errors import Gone, Unreadable
from gateway.log.database import Database
from gateway.protocol.batch import Page

logger = logging.getLogger("gateway.flue.conversations")

AT_ONCE: Final = 512 << 10
"""Bytes of batches that are read, and folded, at one time: some 6 ms of work."""
LARGEST: Final = 512 << 10
"""Bytes of a batch that is read here; Flue's own limit is 12 MB."""
MOST: Final = 8 << 20
"""Bytes of a conversation that is kept here, with what it shows."""
KEPT: Final = 64 << 20
"""Bytes of all that are kept, the ones read last: a few times as much in memory."""
UNREADABLE: Final = 10_000
"""Conversations that are remembered as unreadable."""
FOLD_FORMAT: Final = 3
"""The format of fold checkpoints that Flue 2.1.0 writes. Another one tells of another version."""

_READ: Final = """
WITH asked (path, start, bytes) AS (VALUES ($1::text, $2::bigint, $3::bigint))
SELECT s.incarnation, s.next_offset, c.format_version, b.data, b.largest
  FROM asked a
  JOIN flue_conversation_streams s USING (path)
  LEFT JOIN flue_conversation_fold_checkpoints c USING (path)
 CROSS JOIN LATERAL (
    SELECT max(v.size) AS largest, count(*) AS found, max(v.seq) AS last,
           array_agg(v.data ORDER BY v.seq) AS data
      FROM (SELECT w.seq, w.data, octet_length(w.data) AS size,
                   sum(octet_length(w.data)) OVER (ORDER BY w.seq) - octet_length(w.data) AS before
              FROM (SELECT x.seq, x.data FROM flue_conversation_stream_batches x
                     WHERE x.path = a.path AND x.seq >= a.start AND x.seq < s.next_offset
                     ORDER BY x.seq LIMIT 500) w) v
     WHERE v.before < a.bytes) b
 WHERE b.found = coalesce(b.last - a.start + 1, 0)
"""
_POSITIONS: Final = "SELECT path, incarnation, next_offset FROM flue_conversation_streams WHERE path = ANY ($1)"
_NAMED: Final = "SELECT path FROM flue_conversation_streams WHERE incarnation = $1 AND path LIKE 'agents/%'"


class Source:
    """Reads of Flue's conversations. All methods raise Unavailable when there is no database, and Unreadable for what
    the app has to be asked.
    """

    def __init__(self, database: Database) -> None:
        self.reads = 0
        self._database = database
        self._kept: OrderedDict[str, Conversation] = OrderedDict()
        self._size = 0
        self._unreadable: OrderedDict[str, None] = OrderedDict()  # paths
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def live(self, path: str, position: int, *, last_events: int | None = None, recent: int = 0) -> Page:
        """A page, as the hub asks for it."""
        return (await self.read(path)).page(position)

    async def read(self, path: str) -> Conversation:
        """The conversation as it is now."""
        lock = self._locks.setdefault(path, asyncio.Lock())
        async with lock:
            if path in self._unreadable:
                raise Unreadable
            try:
                return await self._read(path)
            except Unreadable as error:
                logger.info("%s is left to the app that owns it: %s", path, error.details)
                self._drop(path)
                self._unreadable[path] = None
                if len(self._unreadable) > UNREADABLE:
                    self._unreadable.popitem(last=False)
                raise

    async def positions(self, paths: Iterable[str]) -> dict[str, tuple[int, int, bool]]:
        """Id, tail and closed of those that exist, with which the hub compares its tails."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_POSITIONS, list(paths))
        return {row["path"]: (id_of(row["incarnation"]), row["next_offset"], False) for row in rows}

    async def touch(self, paths: Iterable[str]) -> None:
        """Does nothing: no conversation expires."""

    async def path_of(self, incarnation: str) -> str | None:
        """The path of the stream of this incarnation, found by looking through all streams."""
        async with self._database.acquire() as connection:
            path: str | None = await connection.fetchval(_NAMED, incarnation)
        return path

    def forget(self) -> None:
        """Forgets all conversations: the database is another one."""
        self._kept.clear()
        self._unreadable.clear()
        self._size = 0

    async def _read(self, path: str) -> Conversation:
        conversation = self._kept.get(path)
        while True:
            start = 0 if conversation is None else conversation.tail
            self.reads += 1
            async with self._database.acquire() as connection:
                row = await connection.fetchrow(_READ, path, start, AT_ONCE)
            if row is None:
                self._drop(path)
                raise Gone
            if conversation is not None and (
                row["incarnation"] != conversation.incarnation or row["next_offset"] < conversation.tail
            ):
                self._drop(path)
                conversation = None
                continue
            if row["format_version"] not in (None, FOLD_FORMAT):
                raise Unreadable("It was written by another version of Flue.")
            if (row["largest"] or 0) > LARGEST:
                raise Unreadable("It has a batch that is too large.")
            if conversation is None:
                conversation = Conversation(path, row["incarnation"])
            self._append(conversation, row["data"] or [])
            if conversation.tail >= row["next_offset"]:
                return conversation
            if not row["data"]:
                raise Gone

    def _append(self, conversation: Conversation, data: list[str]) -> None:
        """Keeps it, as the one that was read last, and lets go of those that were not read for the longest time."""
        self._drop(conversation.path)
        conversation.append(data)
        if conversation.size > MOST:
            raise Unreadable("It is too long to be kept here.")
        self._kept[conversation.path] = conversation
        self._size += conversation.size
        while self._size > KEPT:
            self._size -= self._kept.popitem(last=False)[1].size

    def _drop(self, path: str) -> None:
        dropped = self._kept.pop(path, None)
        if dropped is not None:
            self._size -= dropped.size
