"""Runs in Postgres: one method, one statement, one short transaction (log/sql/functions/runs.sql).

It knows tables and verdicts, not HTTP. Every change is judged by the database, under the stream's row lock and by the
database's clock, so that it does not matter which Machine makes it. Raises Unavailable without a database.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg
import orjson

from gateway.log.database import Database
from gateway.log.lists import Lists
from gateway.log.near import Near
from gateway.protocol.batch import News, media_type
from gateway.protocol.changes import KINDS, Snapshot, Standing
from gateway.protocol.errors import PathBlocked, RunEnded, RunExists, RunNotFound, StreamGone
from gateway.protocol.record import RunRecord, instant
from gateway.protocol.target import control_of, tenant_of
from gateway.runs.bodies import NewRun
from gateway.runs.live_list import Look, Row
from gateway.runs.queries import ListRequest
from gateway.tasks import in_turns

PIECE: Final = 256 << 10  # characters of metadata that are taken apart in one turn of the loop
PAGE: Final = 1 << 20  # characters of metadata in a page, which is one client's own and may wait long for it

_CREATE: Final = (
    "SELECT * FROM run_gateway.begin_run($1, $2, $3, $4, $5, $6, $7, $8::text::json, $9::text::jsonb, $10::text::json)"
)
_RECORD: Final = (
    "SELECT r.*, (SELECT s.id FROM run_gateway.streams s WHERE s.path = $1) AS stream FROM run_gateway.run_record($1) r"
)
_WITHOUT_TTL: Final = (  # whose end is told by the clock of the server that is asked
    f"{_RECORD} WHERE NOT EXISTS (SELECT FROM run_gateway.streams s WHERE s.path = $1 AND s.ttl IS NOT NULL)"
)
# Of an event's row, and of a page, Postgres knows the size without reading what is in it.
_ACTIVITY: Final = """
    SELECT s.tail, s.lease_until - s.lease * interval '1 second' AS sign, packed.bytes + rest.bytes AS bytes
      FROM run_gateway.streams s
     CROSS JOIN LATERAL (
            SELECT coalesce(sum(octet_length(p.body)), 0)::bigint AS bytes, coalesce(max(p.last), 0) AS last
              FROM run_gateway.pages p WHERE p.stream = s.id) packed
     CROSS JOIN LATERAL (
            SELECT coalesce(sum(octet_length(e.data)), 0)::bigint AS bytes
              FROM run_gateway.events e WHERE e.stream = s.id AND e.seq > packed.last) rest
     WHERE s.id = $1"""
_CANCEL: Final = "SELECT * FROM run_gateway.cancel_run($1, $2, $3)"
# Of that very stream: while its row is locked, no other one can take its place.
_CANCEL_BOUND: Final = """
    SELECT c.* FROM (SELECT path FROM run_gateway.streams WHERE path = $2 AND id = $4 FOR NO KEY UPDATE) s
     CROSS JOIN LATERAL run_gateway.cancel_run($1, s.path, $3) c"""
_CONTROL: Final = """
    SELECT r.id AS run, c.id AS control
      FROM run_gateway.streams r JOIN run_gateway.streams c ON c.path = r.path || '/control'
     WHERE r.path = $1 AND NOT r.gone AND run_gateway.live(r) AND NOT c.gone AND run_gateway.live(c)"""
_OPEN_CONTROL: Final = "SELECT run_gateway.open_control($1)"
_IDS: Final = "SELECT stream, id FROM run_gateway.runs WHERE tenant = $1 AND stream = ANY ($2::bigint[])"
# As news of events, of which there are none: a follower of the run knows as much already.
_TELL_OF: Final = """
    SELECT run_gateway.tell(
        $1, ARRAY(SELECT concat_ws(chr(10), $1::text, p, 0, -1, 'open') FROM unnest($2::text[]) AS p))
"""
_END_LOST: Final = "SELECT * FROM run_gateway.end_lost_runs($1, $2, $3)"
# One way is left to Postgres: along an index that begins with the tenant, and from each run to its stream. Without
# OFFSET it may merge the runs with all streams, from the newest down to where the page begins. With `tenant = $1` it
# may sort by the stream alone, and walk through other tenants' runs until it comes to this one's.
_LIST: Final = """
    SELECT r.stream, r.id, r.workflow_name, r.status, r.started_at, r.ended_at, r.is_error,
           run_gateway.milliseconds(r.started_at, r.ended_at) AS duration_ms, r.metadata, r.cancel_requested_at, s.lease
      FROM run_gateway.runs r
     CROSS JOIN LATERAL (
            SELECT v.lease FROM run_gateway.streams v WHERE v.id = r.stream AND run_gateway.live(v) OFFSET 0) s
     WHERE r.tenant >= $1 AND r.tenant <= $1"""
_NEWEST_FIRST: Final = " ORDER BY r.tenant DESC, r.stream DESC"

_LAST: Final = "coalesce(r.ended_by, r.cancelled_by, r.created_by)"  # the transaction of a run's last change
_CHANGES: Final = """
    SELECT r.stream, r.id, r.workflow_name, r.status, r.started_at, r.ended_at, r.is_error,
           run_gateway.milliseconds(r.started_at, r.ended_at) AS duration_ms, r.metadata, r.cancel_requested_at,
           (SELECT s.lease FROM run_gateway.streams s WHERE s.id = r.stream) AS lease,
           r.created_by::text::bigint AS created, r.cancelled_by::text::bigint AS cancelled,
           r.ended_by::text::bigint AS ended, NULL::bigint AS removed
      FROM run_gateway.runs r
     WHERE r.tenant = $1 AND r.stream > $4 AND """
_REMOVALS: Final = """
    SELECT d.stream, d.id, d.workflow_name, d.status, d.started_at, d.ended_at, d.is_error,
           run_gateway.milliseconds(d.started_at, d.ended_at), d.metadata, d.cancel_requested_at, NULL,
           NULL, NULL, NULL, d.removed_by::text::bigint
      FROM run_gateway.removed_runs d WHERE d.tenant = $1 AND d.stream > $4 AND """
# What a snapshot does not see: transactions after it, and those that were running. By the last change of each run.
_AFTER: Final = (
    " >= $2::bigint::text::xid8 AND {0} < pg_snapshot_xmax(pg_current_snapshot())",
    " = ANY (ARRAY(SELECT x::text::xid8 FROM unnest($3::bigint[]) AS x))",
)
_CHANGED: Final = (
    " UNION ALL ".join(
        "(" + select + last + condition.format(last) + ")"
        for select, last in (
            (_CHANGES, "coalesce(r.ended_by, r.cancelled_by, r.created_by)"),
            (_REMOVALS, "d.removed_by"),
        )
        for condition in _AFTER
    )
    + " ORDER BY stream LIMIT $5"
)
# A statement's rows, or one without a stream; and of which snapshot, which is the statement's own.
_AS_OF: Final = """
    SELECT pg_current_snapshot()::text AS now, extract(epoch FROM clock_timestamp())::bigint AS seconds,
           (SELECT v.epoch FROM run_gateway.server v WHERE v.one) AS epoch, found.*
      FROM (SELECT) AS one LEFT JOIN ({}) AS found ON true"""


@dataclass(frozen=True, slots=True)
class LeaseLook:
    """The result of a look at the leases: runs that were ended, whether there are `more`, and seconds to `wait`."""

    ended: Sequence[News]
    more: bool
    wait: float


class Store:
    """Questions to the database about runs. `machine` names this Machine to the others. `near`: where records and lists
    are read, if they are there.
    """

    def __init__(
        self, database: Database, *, machine: str, lists: Lists | None = None, near: Near | None = None
    ) -> None:
        self._database = database
        self._lists = lists or Lists(database)
        self._machine = machine
        self._near = near

    async def create(self, path: str, run: NewRun) -> tuple[bool, int, int]:
        """Makes a run. Returns whether it is new (False: an equal request made it before), its tail, its stream's id.

        Raises RunExists, PathBlocked.
        """
        row = await self._row(
            tenant_of(path),
            _CREATE,
            path,
            run.digest,
            run.content_type,
            media_type(run.content_type),
            run.ttl,
            run.lease,
            run.workflow_name,
            run.input,
            run.metadata,
            run.lost_event,
        )
        if row["verdict"] == "conflict":
            raise RunExists
        if row["verdict"] == "gone":
            raise PathBlocked
        if self._near is not None:
            self._near.replica.watermarks.made(path)
        return row["verdict"] == "created", row["tail"], row["stream"]

    async def record(self, path: str) -> RunRecord:
        """The record of the run at this path. Raises RunNotFound, StreamGone."""
        return (await self.look(path))[1]

    async def look_near(self, path: str, bound: int | None) -> tuple[int, RunRecord]:
        """Looks as `look` does, near this Machine. `bound`: the id of the only stream that its reader may be shown."""
        near = self._near
        if near is not None:

            def lacks(row: asyncpg.Record) -> bool:
                if row["gone"] or row["id"] is None or row["stream"] < (bound or 0):
                    return True
                return near.replica.lacks_record(path, row["stream"], row["status"] != "active")

            row = await near.row(path, _WITHOUT_TTL, lacks)
            if row is not None:
                return row["stream"], _record(row, row["input"], row["result"], row["error"])
        return await self.look(path)

    async def look(self, path: str) -> tuple[int, RunRecord]:
        """The id of the stream at this path, and the record of the run that it is. Raises RunNotFound, StreamGone."""
        async with self._database.acquire(tenant_of(path)) as connection:
            row = await connection.fetchrow(_RECORD, path)
        if row is None:
            raise RunNotFound
        if row["gone"] or row["id"] is None:
            raise StreamGone
        return row["stream"], _record(row, row["input"], row["result"], row["error"])

    async def activity(self, stream: int, tenant: str) -> dict[str, str | int]:
        """The size of a run's stream, and its producer's last sign of life. Raises TooManyLists, ListTooSlow."""
        rows = await self._lists.fetch(tenant, _ACTIVITY, stream)
        found: dict[str, str | int] = {
            name: rows[0][of] for name, of in (("events", "tail"), ("bytes", "bytes")) if rows
        }
        if rows and rows[0]["sign"] is not None:
            found["lastSignOfLife"] = instant(rows[0]["sign"])
        return found

    async def listed(self, request: ListRequest, tenant: str) -> tuple[list[RunRecord], int | None, Standing]:
        """The first page of a list, and where a reader of it stands. Raises what `page` raises."""
        statement, arguments = _list_of(request, tenant)
        rows = await self._lists.fetch(tenant, _AS_OF.format(statement), *arguments)
        found = sorted((row for row in rows if row["stream"] is not None), key=lambda row: -row["stream"])
        page = _page(found, request.limit)
        standing = Standing(rows[0]["epoch"], rows[0]["seconds"], Snapshot.of(rows[0]["now"]))
        end = page[-1]["stream"] if len(found) > len(page) else None
        return await in_turns(_records_in_pieces(page), _size(page)), end, standing

    async def named(self, request: ListRequest, tenant: str) -> tuple[list[tuple[int, str, bool]], bool, Standing]:
        """The runs that a list names, the newest `limit`: each one's stream, id, and whether it has ended; whether
        there are more; and where a reader of it stands. Raises what `page` raises.
        """
        statement, arguments = _list_of(request, tenant)
        rows = await self._lists.fetch(tenant, _AS_OF.format(statement), *arguments)
        found = [(row["stream"], row["id"], row["status"] != "active") for row in rows if row["stream"] is not None]
        standing = Standing(rows[0]["epoch"], rows[0]["seconds"], Snapshot.of(rows[0]["now"]))
        return found[: request.limit], len(found) > request.limit, standing

    async def ids(self, streams: Sequence[int], tenant: str) -> dict[int, str]:
        """The ids of the runs whose streams these are, as far as they are there."""
        async with self._database.acquire(tenant) as connection:
            rows = await connection.fetch(_IDS, tenant, list(streams))
        return {row["stream"]: row["id"] for row in rows}

    async def changes(self, tenant: str, standing: Standing, most: int) -> Look:
        """Runs of a tenant that have changed since a reader was told something, at most so many.

        Raises TooManyLists, ListTooSlow.
        """
        base, after = standing.base, standing.stream if standing.upto is not None else 0
        running = sorted(base.running)
        rows = await self._lists.fetch(tenant, _AS_OF.format(_CHANGED), tenant, base.end, running, after, most + 1)
        now = Standing(rows[0]["epoch"], rows[0]["seconds"], Snapshot.of(rows[0]["now"]))
        found = sorted((row for row in rows if row["stream"] is not None), key=lambda row: row["stream"])
        page = _page(found, most)
        records = await in_turns(_records_in_pieces(page), _size(page))
        return Look([_row(row, record) for row, record in zip(page, records, strict=True)], now, len(found) > len(page))

    async def page(self, request: ListRequest, tenant: str) -> tuple[list[RunRecord], int | None]:
        """A page of records, newest first, without what may be large (input, result, error), and where it ended; None:
        it is the last page. Raises TooManyLists, ListTooSlow.
        """
        statement, arguments = _list_of(request, tenant)
        rows = None if self._near is None else await self._near.list(tenant, statement, *arguments)
        if rows is None:
            rows = await self._lists.fetch(tenant, statement, *arguments)
        page = _page(rows, request.limit)
        records = await in_turns(_records_in_pieces(page), _size(page))
        return records, page[-1]["stream"] if len(rows) > len(page) else None

    async def tell_of(self, machine: str, runs: Sequence[str]) -> None:
        """Tells other Machines that these runs were made. `machine`: this one's name, as others are to read it."""
        async with self._database.acquire() as connection:
            await connection.execute(_TELL_OF, machine, list(runs))

    async def open_control(self, run: str) -> bool:
        """Makes sure that the run has its control stream. False: there is no such run."""
        async with self._database.acquire(tenant_of(run)) as connection:
            return bool(await connection.fetchval(_OPEN_CONTROL, run))

    async def control(self, run: str) -> tuple[int, int] | None:
        """The ids of a run's stream and of its control stream, which is made if need be. None: there is no such run."""
        for _ in range(2):
            async with self._database.acquire(tenant_of(run)) as connection:
                row = await connection.fetchrow(_CONTROL, run)
            if row is not None:
                return row["run"], row["control"]
            if not await self.open_control(run):
                break
        return None

    async def cancel(self, run: str, reason: str | None, *, stream_id: int | None = None) -> News | None:
        """Asks the run to stop. Returns the new event of its control stream; None: it had been asked before.

        `stream_id`: of the only stream that may be meant. Raises RunNotFound, StreamGone, RunEnded.
        """
        if stream_id is None:
            row = await self._row(tenant_of(run), _CANCEL, self._machine, run, reason)
        else:
            async with self._database.acquire(tenant_of(run)) as connection:
                found = await connection.fetchrow(_CANCEL_BOUND, self._machine, run, reason, stream_id)
            if found is None:
                raise RunNotFound
            row = found
        match row["verdict"]:
            case "not_found":
                raise RunNotFound
            case "gone":
                raise StreamGone
            case "ended":
                raise RunEnded
            case "known":
                if self._near is not None:  # maybe at another Machine
                    self._near.replica.watermarks.made(run)
                return None
        return News(control_of(run), row["tail"], row["tail"], body=row["body"].encode())

    async def end_lost(self, most: int, *, again: bool) -> LeaseLook:
        """Ends runs whose leases have run out, if it is this Machine's turn to look."""
        row = await self._row(None, _END_LOST, self._machine, most, again)
        ended = [
            News(path, tail + (body is None), tail, closed=True, body=(body or "").encode())
            for path, tail, body in zip(row["paths"] or (), row["tails"] or (), row["bodies"] or (), strict=True)
        ]
        return LeaseLook(ended, row["more"], row["wait"].total_seconds())

    async def _row(self, tenant: str | None, query: str, *arguments: object) -> asyncpg.Record:
        async with self._database.acquire(tenant) as connection:
            row = await connection.fetchrow(query, *arguments)
        assert row is not None, "a function's OUT parameters are one row"
        return row


def _page(rows: Sequence[asyncpg.Record], most: int) -> Sequence[asyncpg.Record]:
    """The first rows, at most so many, and fewer where more than PAGE of metadata would be among them."""
    size = 0
    for number, row in enumerate(rows[:most]):
        size += len(row["metadata"] or "")
        if size > PAGE and number:
            return rows[:number]
    return rows[:most]


def _size(rows: Sequence[asyncpg.Record]) -> int:
    """Bytes that rows have as records, about."""
    return sum(200 + len(row["metadata"] or "") for row in rows)


def _records_in_pieces(rows: Sequence[asyncpg.Record]) -> Generator[None, None, list[RunRecord]]:
    records, done = [], 0
    for row in rows:
        records.append(_record(row))
        done += len(row["metadata"] or "")
        if done > PIECE:
            done = 0
            yield
    return records


def _list_of(request: ListRequest, tenant: str) -> tuple[str, list[str | int]]:
    """The statement of a page of a list, and one run more; and its arguments."""
    statement = _LIST
    arguments: list[str | int] = [tenant]
    for condition, value in (
        ("r.status = $%d", request.status),
        ("r.workflow_name = $%d", request.workflow_name),
        ("r.stream < $%d", request.before),
    ):
        if value is not None:
            arguments.append(value)
            statement += " AND " + condition % len(arguments)
    for alternatives in request.metadata:
        numbers = range(len(arguments) + 1, len(arguments) + 1 + len(alternatives))
        statement += f" AND ({' OR '.join(f'r.metadata @> ${number}::text::jsonb' for number in numbers)})"
        arguments += alternatives
    arguments.append(request.limit + 1)
    return f"{statement}{_NEWEST_FIRST} LIMIT ${len(arguments)}", arguments


def _row(row: asyncpg.Record, record: RunRecord) -> Row:
    return Row(row["stream"], record, [(kind, row[kind]) for kind in KINDS if row[kind] is not None])


def _record(
    row: asyncpg.Record, input: str | None = None, result: str | None = None, error: str | None = None
) -> RunRecord:
    return RunRecord(
        run_id=row["id"],
        status=row["status"],
        started_at=instant(row["started_at"]),
        workflow_name=row["workflow_name"],
        input=_bytes(input),
        ended_at=_instant(row["ended_at"]),
        is_error=row["is_error"],
        duration_ms=row["duration_ms"],
        result=_bytes(result),
        error=_bytes(error),
        metadata=_compact(row["metadata"]),
        cancel_requested_at=_instant(row["cancel_requested_at"]),
        lease=row["lease"],
    )


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _compact(text: str | None) -> bytes | None:
    """Without the spaces that Postgres writes into its jsonb."""
    return None if text is None else orjson.dumps(orjson.loads(text))


def _instant(moment: datetime | None) -> str | None:
    return None if moment is None else instant(moment)
