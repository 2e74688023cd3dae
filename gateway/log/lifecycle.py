"""Streams come and go: create, fork, delete (§5.1, §4.2, §5.4)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.log.database import Database
from gateway.log.page_arrays import LARGE, MANY, Pages, in_one
from gateway.protocol.batch import media_type
from gateway.protocol.create import DEFAULT_TYPE, CreateRequest
from gateway.protocol.errors import (
    ContentTypeMismatch,
    ForkOffsetBeyondTail,
    ForkSubOffsetBeyondData,
    ForkTooDeep,
    PathBlocked,
    ProtocolError,
    SourceGone,
    SourceNotFound,
    StreamExists,
    StreamGone,
    StreamNotFound,
    TooManyForks,
)
from gateway.protocol.target import tenant_of

_CREATE = (
    "SELECT * FROM run_gateway.make_stream_v2("
    "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)"
)
_CREATE_LARGE = _CREATE.replace("$11", "run_gateway.cut($11, $19)").replace("$17", "run_gateway.cut($17, $20)")
_DELETE = "SELECT run_gateway.delete_stream($1, $2)"
_CONTENT_TYPE = "SELECT content_type FROM run_gateway.streams WHERE path = $1"

_REFUSALS: dict[str, type[ProtocolError]] = {
    "conflict": StreamExists,
    "gone": PathBlocked,
    "source_not_found": SourceNotFound,
    "source_gone": SourceGone,
    "content_type": ContentTypeMismatch,
    "fork_offset": ForkOffsetBeyondTail,
    "fork_sub_offset": ForkSubOffsetBeyondData,
    "fork_count": TooManyForks,
    "fork_depth": ForkTooDeep,
}


@dataclass(frozen=True, slots=True)
class Created:
    """A stream that exists as it was asked for.

    `new`: this request created it. `tail`: the position after its events. `copied`: bytes of the source's that were
    written for a fork that begins in the middle of an append.
    """

    new: bool
    content_type: str
    tail: int
    closed: bool
    copied: int = 0


class Lifecycle:
    """Creating and deleting streams. Each is one transaction; raises Unavailable without a database.

    A stream has at most `max_forks`, and a chain of forks is at most `max_fork_depth` long. `pack`: events that come in
    numbers may be written as pages.
    """

    def __init__(
        self,
        database: Database,
        *,
        machine: str,
        max_forks: int = 10_000,
        max_fork_depth: int = 100,
        pack: bool = True,
    ) -> None:
        self._database = database
        self._machine = machine
        self._pack = pack
        self._max_forks = max_forks
        self._max_fork_depth = max_fork_depth

    async def create(self, request: CreateRequest) -> Created:
        """Creates the stream or confirms it. Raises StreamExists, PathBlocked, SourceNotFound and their like."""
        fork = request.fork
        create, events = await self._statement(request.events)
        async with self._database.acquire(tenant_of(request.path)) as connection:
            row = await connection.fetchrow(
                create,
                request.path,
                request.content_type,
                None if request.content_type is None else media_type(request.content_type),
                request.ttl,
                request.expires_at,
                request.expires_header,
                request.closed,
                fork and fork.source,
                fork and fork.anchor,
                fork and fork.sub_offset,
                events[0],
                request.lease,
                self._max_fork_depth,
                self._max_forks,
                *events[1:],
            )
            assert row is not None, "a function's OUT parameters are one row"
            if row["verdict"] == "content_type" and fork is not None:
                source = await connection.fetchval(_CONTENT_TYPE, fork.source)
                raise ContentTypeMismatch.between(request.content_type or DEFAULT_TYPE, source or "another")
        if row["verdict"] == "conflict" and request.content_type is not None:
            raise StreamExists(f"Its content type is {row['content_type']}; the request's is {request.content_type}.")
        refusal = _REFUSALS.get(row["verdict"])
        if refusal is not None:
            raise refusal
        return Created(row["verdict"] == "created", row["content_type"], row["tail"], row["closed"], row["copied"] or 0)

    async def _statement(self, events: Sequence[bytes]) -> tuple[str, list[object]]:
        """How a stream is created that begins with these events: the statement, and its arguments for them."""
        pages, large = Pages(), sum(map(len, events)) > LARGE
        if self._pack and len(events) >= MANY:  # of JSON: a body of another type is one event
            body = b",".join(events)
            if large:
                await asyncio.sleep(0)
            pages.add(1, body, list(map(len, events)), 1)
            events = ()
        if not large:
            return _CREATE, [list(events), *pages.of_one()]
        await asyncio.sleep(0)
        ordinals, counts, _, lengths = pages.of_one()
        (all_events, event_sizes), (all_pages, page_sizes) = in_one(events), in_one(pages.bodies)
        await asyncio.sleep(0)
        return _CREATE_LARGE, [all_events, ordinals, counts, all_pages, lengths, event_sizes, page_sizes]

    async def delete(self, path: str) -> None:
        """Deletes the stream; its forks keep what they inherit. Raises StreamNotFound, StreamGone."""
        async with self._database.acquire(tenant_of(path)) as connection:
            verdict = await connection.fetchval(_DELETE, self._machine, path)
        if verdict == "not_found":
            raise StreamNotFound
        if verdict == "gone":
            raise StreamGone
