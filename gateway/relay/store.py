"""Recordings in Postgres: one method, one statement (log/sql/functions/relay.sql). Raises Unavailable without one.

What decides is the database: which of two claims of a key was first, and whether a run has ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import asyncpg

from gateway.asgi import Headers
from gateway.log.database import Database
from gateway.protocol.batch import News
from gateway.protocol.target import tenant_of

_BEGIN: Final = (
    "SELECT run_gateway.begin_recording($1, $2, $3, $4, $5, $6, $7::text::json, to_json($8::text), $9::text[])"
)
_CLAIM: Final = (
    "SELECT path, stream FROM run_gateway.claim_recording("
    "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::json, to_json($11::text))"
)
_NAME: Final = "SELECT run_gateway.name_recording($1, $2)"
_ANSWER: Final = "UPDATE run_gateway.recordings SET head = $2 WHERE stream = $1"
_RELEASE: Final = "SELECT run_gateway.release_recording($1, $2, $3)"
_LOSE: Final = "SELECT tail, body FROM run_gateway.lose_recording($1, $2, $3, $4)"
_KEEP: Final = """
    UPDATE run_gateway.recordings SET rejoin = $2::text::json, cancels = $3, conversation = $4 WHERE stream = $1
"""
_FORGET: Final = """
    UPDATE run_gateway.recordings SET rejoin = NULL
     WHERE stream = $1 AND EXISTS (SELECT FROM run_gateway.streams s WHERE s.id = $1 AND s.closed)
"""
_HAND_OVER: Final = "SELECT run_gateway.hand_over_recording($1, $2)"
_TAKE: Final = """
    SELECT path, stream, relay, generation, rejoin::text AS rejoin, cancels, cancel_requested, age, conversation
      FROM run_gateway.take_recordings($1, $2, $3)
"""
_UNFINISHED: Final = """
    SELECT DISTINCT r.conversation FROM run_gateway.recordings r JOIN run_gateway.streams s ON s.id = r.stream
     WHERE r.conversation = ANY ($1) AND r.rejoin IS NOT NULL AND NOT s.closed AND NOT s.gone
"""
_TAKEN: Final = """
    SELECT r.stream FROM unnest($1::bigint[], $2::integer[]) AS e(stream, generation)
      JOIN run_gateway.recordings r ON r.stream = e.stream WHERE r.generation <> e.generation
"""
_FOUND: Final = """
    SELECT s.id, s.path, s.closed, r.head, r.relay
      FROM run_gateway.recordings r JOIN run_gateway.streams s ON s.id = r.stream
     WHERE {} AND s.path IS NOT NULL AND NOT s.gone AND run_gateway.live(s)
       AND NOT coalesce(s.closed_at < clock_timestamp() - $2::interval, false)
"""
_FIND: Final = _FOUND.format("r.stream = (SELECT k.stream FROM run_gateway.recording_keys k WHERE k.key = $1)")
_LOOK: Final = _FOUND.format("s.path = $1")
_MARKS: Final = "SELECT secret FROM run_gateway.recording_secret"
_READ: Final = "UPDATE run_gateway.recordings SET read_at = clock_timestamp() WHERE stream = ANY ($1)"
_UNREAD: Final = """
    SELECT extract(epoch FROM clock_timestamp() - r.read_at)::float
      FROM run_gateway.recordings r WHERE r.stream = $1
"""


@dataclass(frozen=True, slots=True)
class New:
    """A recording to be: the run at `path`, by the row `relay`. `lost`: its last frame, should its upstream be lost.

    `input`: a JSON text. `lease`: seconds.
    """

    path: str
    relay: str
    content_type: str
    lease: int
    input: str | None
    lost: str | None

    @property
    def media_type(self) -> str:
        return self.content_type.partition(";")[0].strip().lower()

    @property
    def arguments(self) -> tuple[object, ...]:
        """The arguments of the functions that make a run."""
        return (
            self.path,
            self.relay,
            self.content_type,
            self.media_type,
            self.lease,
            self.relay,
            self.input,
            self.lost,
        )


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording that exists. `head`: headers of its answer; None: the upstream has not answered yet."""

    stream: int
    path: str
    closed: bool
    head: Headers | None
    relay: str

    @property
    def run(self) -> str:
        """The run's id."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Taken:
    """A recording that this Machine goes on with. `rejoin`: what is kept of its `Contact`. `age`: seconds since its run
    began. `generation`: how often it has been taken over. `conversation`: the key of the one that it belongs to.
    """

    path: str
    stream: int
    relay: str
    generation: int
    rejoin: str
    cancels: bool
    cancel_requested: bool
    age: float
    conversation: bytes | None


@dataclass(frozen=True, slots=True)
class Claim:
    """The outcome of a claim: the recording at `path`, which is `own` or that of an earlier client."""

    path: str
    stream: int
    own: bool


class Store:
    """Everything that is asked of the database about recordings. `machine` names this one to the others."""

    def __init__(self, database: Database, *, machine: str) -> None:
        self._database = database
        self._machine = machine

    async def secret(self) -> bytes:
        """The secret of the marks of clients' credentials, which all Machines share."""
        async with self._database.acquire() as connection:
            secret: bytes = await connection.fetchval(_MARKS)
        return secret

    async def begin(self, new: New, head: Headers) -> int:
        """Makes a recording of an answer that is there. Returns its stream's id."""
        async with self._database.acquire(tenant_of(new.path)) as connection:
            stream: int = await connection.fetchval(_BEGIN, *new.arguments, _flat(head))
        return stream

    async def claim(self, key: bytes, new: New, *, attach: bool, grace: float | None) -> Claim:
        """Makes a recording of an answer that is still to come, unless there is one of this key and `attach` is set."""
        async with self._database.acquire(tenant_of(new.path)) as connection:
            row = await connection.fetchrow(_CLAIM, key, attach, _interval(grace), *new.arguments)
        assert row is not None, "a function's OUT parameters are one row"
        return Claim(row["path"], row["stream"], row["path"] == new.path)

    async def name(self, key: bytes, stream: int) -> None:
        """Makes a key lead to this recording."""
        async with self._database.acquire() as connection:
            await connection.execute(_NAME, key, stream)

    async def answered(self, stream: int, head: Headers) -> None:
        """Notes what the upstream has answered."""
        async with self._database.acquire() as connection:
            await connection.execute(_ANSWER, stream, _flat(head))

    async def release(self, key: bytes, stream: int) -> News | None:
        """Undoes a claim of which nothing has come. Returns that its run is no more."""
        async with self._database.acquire() as connection:
            path = await connection.fetchval(_RELEASE, self._machine, key, stream)
        return None if path is None else News(path, 0, 0, deleted=True)

    async def lose(self, path: str, reason: str, generation: int) -> News | None:
        """Ends a recording whose upstream is lost. Returns its last frame; None: it had ended, or is another's."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(_LOSE, self._machine, path, reason, generation)
        if row is None or row["tail"] is None:
            return None
        body = row["body"]
        return News(path, row["tail"] + (body is None), row["tail"], closed=True, body=(body or "").encode())

    async def keep(self, stream: int, rejoin: str, cancels: bool, conversation: bytes | None = None) -> None:
        """Notes how any Machine can go on with a recording; with one of a `conversation`, the owner of that alone."""
        async with self._database.acquire() as connection:
            await connection.execute(_KEEP, stream, rejoin, cancels, conversation)

    async def forget(self, stream: int) -> None:
        """Forgets that again, if its run has ended."""
        async with self._database.acquire() as connection:
            await connection.execute(_FORGET, stream)

    async def hand_over(self, stream: int, generation: int) -> bool:
        """Offers a recording of this Machine to the others. Returns whether they can go on with it."""
        async with self._database.acquire() as connection:
            return bool(await connection.fetchval(_HAND_OVER, stream, generation))

    async def take(self, relays: Sequence[str], most: int, life: int | None = None) -> list[Taken]:
        """Takes over what is offered of these rows. `life`: by which this Machine owns conversations."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_TAKE, list(relays), most, life)
        return [Taken(**row) for row in rows]

    async def unfinished(self, conversations: Sequence[bytes]) -> set[bytes]:
        """The conversations with an unfinished recording with which the next owner can go on."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_UNFINISHED, list(conversations))
        return {row["conversation"] for row in rows}

    async def taken(self, generations: Mapping[int, int]) -> list[int]:
        """The recordings among these, by their streams, that another Machine has taken over."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_TAKEN, list(generations), list(generations.values()))
        return [row["stream"] for row in rows]

    async def find(self, tenant: str, key: bytes, grace: float | None) -> Recording | None:
        """A tenant's newest recording of a key, unless it ended more than `grace` seconds ago."""
        return await self._find(tenant, _FIND, key, grace)

    async def look(self, path: str, grace: float | None = None) -> Recording | None:
        """The recording at a path, unless it ended more than `grace` seconds ago."""
        return await self._find(tenant_of(path), _LOOK, path, grace)

    async def _find(self, tenant: str, statement: str, what: object, grace: float | None) -> Recording | None:
        async with self._database.acquire(tenant) as connection:
            row = await connection.fetchrow(statement, what, _interval(grace))
        return None if row is None else _recording(row)

    async def read(self, streams: Sequence[int]) -> None:
        """Notes that these recordings have readers."""
        async with self._database.acquire() as connection:
            await connection.execute(_READ, list(streams))

    async def unread(self, stream: int) -> float | None:
        """Seconds since a recording was last seen to have a reader; None: it never was."""
        async with self._database.acquire() as connection:
            seconds: float | None = await connection.fetchval(_UNREAD, stream)
        return seconds


def _recording(row: asyncpg.Record) -> Recording:
    flat = row["head"]
    head = None if flat is None else [(_bytes(flat[n]), _bytes(flat[n + 1])) for n in range(0, len(flat), 2)]
    return Recording(row["id"], row["path"], row["closed"], head, row["relay"])


def _flat(head: Headers) -> list[str]:
    return [part.decode("latin-1") for header in head for part in header]


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")


def _interval(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
