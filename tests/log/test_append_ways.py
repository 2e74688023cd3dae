"""append_batch, append_plain, append_one and append_alone: four ways into the log, one set of rules.

What the procedure tells other Machines follows from the outcome alone, so equal outcomes are equal notifications.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.log.rig import JSON, connected, opened, until_blocked

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

LONG = 1_000_000  # seconds: times are compared to a thousandth of that
BATCH = (
    "SELECT verdicts, tails, closed, known_epochs, known_seqs, cancels"
    " FROM run_gateway.append_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
)
PLAIN = (
    "SELECT verdicts, tails, closed, known_epochs, known_seqs, cancels"
    " FROM run_gateway.append_plain($1, $2, $3, $4, $5, $6)"
)
ONE = (
    "SELECT outcome, tail, closed, known_epoch, known_seq, cancel_requested"
    " FROM run_gateway.append_one($1, $2, $3, $4, $5, $6, $7, $8, $9)"
)
ALONE = "SELECT tail, cancel_requested FROM run_gateway.append_alone($1, $2, $3, $4)"
STATE = (
    "SELECT path, tail, closed, closed_at IS NULL, gone, stream_seq, closing_producer,"
    f" closing_epoch, closing_seq, round(extract(epoch FROM expires_at - now()) / {LONG / 1000}), lease,"
    f" round(extract(epoch FROM lease_until - now()) / {LONG / 1000}), lost, cancel_requested"
    " FROM run_gateway.streams ORDER BY path",
    "SELECT * FROM run_gateway.events ORDER BY stream, seq",
    "SELECT * FROM run_gateway.producers ORDER BY stream, producer",
    "SELECT stream FROM run_gateway.leases ORDER BY stream",
)


@dataclass(frozen=True)
class Stream:
    """What may be known of a stream before it is appended to."""

    media_type: str
    tail: int
    closed: str  # open, closed, closed by a producer's request, or because its lease ran out
    gone: bool
    ttl: int | None
    expired: bool
    lease: int | None
    cancel_requested: bool
    stream_seq: str | None
    producer: tuple[int, int] | None  # what p has said last


@dataclass(frozen=True)
class Request:
    """A request, in the order of append_one's arguments after the path."""

    media_type: str | None
    closing: bool
    stream_seq: str | None
    producer: str | None
    epoch: int | None
    seq: int | None
    events: tuple[bytes, ...]
    lease: int | None


types = st.sampled_from([JSON, "text/plain"])
streams = st.builds(
    Stream,
    media_type=types,
    tail=st.integers(0, 2),
    closed=st.sampled_from(["open"] * 4 + ["closed", "by a producer", "lost"]),
    gone=st.sampled_from([False] * 5 + [True]),
    ttl=st.sampled_from([None, None, LONG]),
    expired=st.sampled_from([False] * 5 + [True]),
    lease=st.sampled_from([None, LONG]),
    cancel_requested=st.booleans(),
    stream_seq=st.sampled_from([None, "b"]),
    producer=st.sampled_from([None, (1, 0), (1, 1)]),
)
events = st.lists(st.sampled_from([b"1", b'"two"']), max_size=3).map(tuple)
plain = st.builds(
    lambda media_type, events: Request(media_type if events else None, False, None, None, None, None, events, None),
    types,
    events,
)
alike = st.tuples(types, st.integers(0, 3)).flatmap(
    lambda kind: st.dictionaries(
        st.sampled_from("abcdefg"),
        st.lists(st.sampled_from([b"1", b'"two"']), min_size=kind[1], max_size=kind[1]).map(
            lambda events: Request(kind[0] if events else None, False, None, None, None, None, tuple(events), None)
        ),
        min_size=1,
        max_size=6,
    )
)
claims = st.sampled_from([(None, None, None), *(("p", epoch, seq) for epoch in (0, 1, 2) for seq in (-1, 0, 1, 2, 3))])
anything = st.builds(
    lambda request, closing, stream_seq, claim, lease: Request(
        request.media_type, closing, stream_seq, claim[0], claim[1], claim[2], request.events, lease
    ),
    plain,
    st.booleans(),
    st.sampled_from([None, "a", "b", "c"]),
    claims,
    st.sampled_from([None, LONG * 2]),
)


async def create(connection: Connection, path: str, stream: Stream) -> None:
    by = ("p", 1, 1) if stream.closed == "by a producer" else (None, None, None)
    id = await connection.fetchval(
        "INSERT INTO run_gateway.streams (path, content_type, media_type, tail, closed, closed_at, lost, gone, ttl,"
        " expires_at, lease, lease_until, cancel_requested, stream_seq, closing_producer, closing_epoch, closing_seq)"
        f" SELECT $1, $2, $2, $3, $4, CASE WHEN $4 THEN now() END, $5, $6, $7, CASE WHEN $8 THEN now() - interval '1 s'"
        f" WHEN $7::bigint IS NOT NULL THEN now() + interval '{LONG // 2} s' END, $9,"
        f" CASE WHEN $9::integer IS NOT NULL THEN now() + interval '{LONG // 2} s' END, $10, $11, $12, $13, $14"
        " RETURNING id",
        *(path, stream.media_type, stream.tail, stream.closed != "open", stream.closed == "lost", stream.gone),
        *(stream.ttl, stream.expired, stream.lease, stream.cancel_requested, stream.stream_seq, *by),
    )
    await connection.execute(
        "INSERT INTO run_gateway.events SELECT $1, n, 'before' FROM generate_series(1, $2::bigint) n", id, stream.tail
    )
    if stream.producer is not None:
        await connection.execute("INSERT INTO run_gateway.producers VALUES ($1, 'p', $2, $3)", id, *stream.producer)


async def by_batch(connection: Connection, requests: dict[str, Request]) -> list[tuple[Any, ...]]:
    columns = list(zip(*map(astuple, requests.values()), strict=True))
    media_types, closes, stream_seqs, producers, epochs, seqs, events, leases = columns
    row = await connection.fetchrow(
        BATCH,
        *(list(requests), media_types, list(map(len, events)), closes, stream_seqs, producers, epochs, seqs),
        *(*flat(events), leases),
    )
    assert row is not None
    return list(zip(*row, strict=True))


async def by_plain(connection: Connection, requests: dict[str, Request]) -> list[tuple[Any, ...]]:
    events = [request.events for request in requests.values()]
    ((media_type, count),) = {(request.media_type, len(request.events)) for request in requests.values()}
    row = await connection.fetchrow(PLAIN, list(requests), media_type, count, *flat(events))
    assert row is not None
    return list(zip(*row, strict=True))


async def by_one(connection: Connection, requests: dict[str, Request]) -> list[tuple[Any, ...]]:
    rows = [await connection.fetchrow(ONE, path, *astuple(request)) for path, request in requests.items()]
    return [tuple(row) for row in rows if row is not None]


async def by_alone(connection: Connection, requests: dict[str, Request]) -> list[tuple[Any, ...]]:
    outcomes = []
    for path, request in requests.items():
        row = await connection.fetchrow(ALONE, path, request.media_type, request.events, request.stream_seq)
        assert row is not None
        if row["tail"] is None:
            outcomes += await by_one(connection, {path: request})
            assert outcomes[-1][0] != "appended", "it could have been"
        else:
            outcomes.append(("appended", row["tail"], False, None, None, row["cancel_requested"]))
    return outcomes


def flat(events: Sequence[tuple[bytes, ...]]) -> tuple[list[int], list[int], list[bytes]]:
    """Entry, ordinal and bytes of each event, as the functions take them."""
    all = [(entry, n, event) for entry, some in enumerate(events, 1) for n, event in enumerate(some, 1)]
    return [entry for entry, _, _ in all], [n for _, n, _ in all], [event for _, _, event in all]


async def compare(
    connection: Connection, before: dict[str, Stream], requests: dict[str, Request], ways: Sequence[Any]
) -> set[str]:
    """Goes all ways from the same state, and back; the verdicts that were met."""
    results = []
    change = connection.transaction()
    await change.start()
    try:
        for path, stream in before.items():
            await create(connection, path, stream)
        for way in ways:
            attempt = connection.transaction()
            await attempt.start()
            outcomes = await way(connection, requests)
            state = [await connection.fetch(statement) for statement in STATE]
            results.append((outcomes, state))
            await attempt.rollback()
    finally:
        await change.rollback()
    for other in results[1:]:
        assert other == results[0]
    return {outcome[0] for outcome in results[0][0]}


@contextmanager
def asking(url: str) -> Iterator[tuple[asyncio.Runner, Connection]]:
    """A loop of the test's own, for examples that are drawn outside of any."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url))
        try:
            yield runner, connection
        finally:
            runner.run(connection.close())


def test_plain_requests_fare_the_same_all_ways(database_url: str) -> None:
    met: set[str] = set()
    with asking(database_url) as (runner, connection):

        @settings(max_examples=150, derandomize=True)
        @given(before=st.dictionaries(st.sampled_from("abcdef"), streams, max_size=6), requests=alike)
        def holds(before: dict[str, Stream], requests: dict[str, Request]) -> None:
            ordered = dict(sorted(requests.items()))
            met.update(runner.run(compare(connection, before, ordered, (by_batch, by_plain, by_one, by_alone))))

        holds()
    assert met == {"appended", "not_found", "gone", "closed", "content_type", "lost"}


def test_a_stream_seq_fares_the_same_all_ways(database_url: str) -> None:
    met: set[str] = set()
    numbered = st.builds(
        lambda request, stream_seq: Request(
            request.media_type, False, stream_seq, None, None, None, request.events, None
        ),
        plain,
        st.sampled_from(["a", "b", "c"]),
    )
    with asking(database_url) as (runner, connection):

        @settings(max_examples=150, derandomize=True)
        @given(stream=streams, request=numbered)
        def holds(stream: Stream, request: Request) -> None:
            met.update(runner.run(compare(connection, {"a": stream}, {"a": request}, (by_batch, by_one, by_alone))))

        holds()
    assert met == {"appended", "not_found", "gone", "closed", "content_type", "lost", "stream_seq"}


def test_any_request_fares_the_same_alone_and_in_a_batch(database_url: str) -> None:
    met: set[str] = set()
    with asking(database_url) as (runner, connection):

        @settings(max_examples=500, derandomize=True)
        @given(stream=st.one_of(streams, streams, st.none()), request=anything)
        def holds(stream: Stream | None, request: Request) -> None:
            before = {} if stream is None else {"a": stream}
            met.update(runner.run(compare(connection, before, {"a": request}, (by_batch, by_one))))

        holds()
    assert {"appended", "duplicate", "closed", "lost", "stale_epoch", "sequence_gap", "stream_seq"} <= met


async def unhurried(connection: Connection) -> None:
    """Whoever waits for a row waits for as long as it takes."""
    await connection.execute("ALTER FUNCTION run_gateway.append_plain SET lock_timeout = 0")
    await connection.execute("ALTER FUNCTION run_gateway.append_batch SET lock_timeout = 0")


AGAIN = "SELECT run_gateway.delete_stream('m1', 'b'); INSERT INTO run_gateway.streams (path, content_type, media_type)"


@pytest.mark.parametrize(
    ("meanwhile", "outcome"),
    [
        ("UPDATE run_gateway.streams SET tail = tail + 1 WHERE path = 'b'", ("appended", 2)),
        ("SELECT run_gateway.close('b', '7')", ("closed", 1)),
        ("SELECT run_gateway.delete_stream('m1', 'b')", ("not_found", None)),
        (f"{AGAIN} VALUES ('b', 'application/json', 'application/json')", ("not_found", None)),
        (f"{AGAIN} VALUES ('b', 'text/plain', 'text/plain')", ("content_type", 0)),
    ],
)
async def test_a_row_that_was_waited_for_is_judged_as_it_is_by_then(
    database_url: str, meanwhile: str, outcome: tuple[str, int | None]
) -> None:
    async with (
        opened(database_url) as log,
        connected(database_url) as holder,
        connected(database_url) as writer,
        connected(database_url) as look,
    ):
        await unhurried(look)
        for path in "abc":
            await log.create(path)
        requests = {path: Request(JSON, False, None, None, None, None, (b"1",), None) for path in "abc"}
        async with holder.transaction():
            await holder.execute(meanwhile)
            appending = asyncio.create_task(by_plain(writer, requests))
            await until_blocked(look)
        outcomes = await appending
        assert [one[:2] for one in outcomes] == [("appended", 1), outcome, ("appended", 1)]
        assert await look.fetchval("SELECT count(*) FROM run_gateway.events WHERE data = '1'") == sum(
            one[0] == "appended" for one in outcomes
        )


async def test_batches_of_both_kinds_never_deadlock(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as look:
        await unhurried(look)
        for path in "abcdef":
            await log.create(path)

        async def write(number: int) -> int:
            chance = random.Random(number)
            written = 0
            async with connected(database_url) as connection:
                await connection.execute("SET deadlock_timeout = '10ms'")
                for n in range(120):
                    paths = sorted(chance.sample("abcdef", chance.randint(2, 6)))
                    claim = (None, None, None) if chance.random() < 0.6 else (f"p{number}.{n}", 0, 0)
                    request = Request(JSON, False, None, claim[0], claim[1], claim[2], (b"1",), None)
                    way = by_plain if claim[0] is None else by_batch
                    outcomes = await way(connection, dict.fromkeys(paths, request))
                    assert {one[0] for one in outcomes} == {"appended"}
                    written += len(paths)
            return written

        total = sum(await asyncio.gather(*(write(number) for number in range(4))))
        assert await look.fetchval("SELECT sum(tail) FROM run_gateway.streams") == total
        assert await look.fetchval("SELECT count(*) FROM run_gateway.events") == total
