"""The writer over a real Postgres: order, group commit, idempotent producers, and outcomes that nobody knows."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict

import asyncpg
import pytest

from gateway.log.appends import Appended
from gateway.log.lane import translated
from gateway.protocol import errors
from gateway.protocol.append import AppendRequest, Producer
from gateway.protocol.batch import News
from tests.log.producer_model import ModelStream, Outcome
from tests.log.rig import JSON, Log, connected, opened, until_blocked


async def outcome(log: Log, request: AppendRequest) -> Outcome:
    try:
        return await log.writer.append(request)
    except errors.ProtocolError as error:
        return type(error)


def numbers(*many: int) -> bytes:
    return b",".join(b"%d" % number for number in many)


async def test_each_append_is_answered_with_the_tail_after_it(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("s")
        assert await log.append("s", b"1") == Appended(1, False, False)
        assert await log.append("s", b"2", b"3") == Appended(3, False, False)
        assert await log.append("s", b"4", close=True) == Appended(4, False, True)
        assert await log.content("s") == b"1,2,3,4"


async def test_requests_that_wait_together_become_one_transaction(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as look:
        for name in "abcde":
            await log.create(name)
        await asyncio.gather(*(log.append(name, b"%d" % n) for n in range(20) for name in "abcde"))
        assert await look.fetchval("SELECT count(*) FROM run_gateway.events") == 100
        # The first on each of the two lanes does not wait for company; all others go together.
        assert await look.fetchval("SELECT count(DISTINCT xmin::text) FROM run_gateway.events") <= 4


async def test_an_appends_outcome_does_not_depend_on_telling_readers(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(database_url) as log:
        told: list[tuple[str, object]] = []

        def fail_at_a(news: News) -> None:
            if news.path == "a":
                raise RuntimeError("a reader's fault")

        log.feed.committed.subscribe(fail_at_a)
        monkeypatch.setattr(log.writer, "_crowd", 2)  # so that both go together
        for name in "ab":
            await log.create(name)
        log.writer.submit(AppendRequest("a", JSON, [b"1"]), lambda outcome: told.append(("a", outcome)))
        log.writer.submit(AppendRequest("b", JSON, [b"1"]), lambda outcome: told.append(("b", outcome)))
        await log.writer.close()
        assert [name for name, _ in told] == ["a", "b"]
        assert [outcome for _, outcome in told] == [Appended(1, False, False)] * 2
        assert log.writer.outcomes == {"appended": 2}
        assert [news.path for news in log.news] == ["a", "b"], "who subscribes beside it hears of both"
        assert not log.doubts


async def test_a_streams_requests_are_applied_in_their_order(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("a")
        await log.create("b")
        answers = await asyncio.gather(
            *(
                log.append(name, b"%d" % n, producer=Producer("p", 0, n // 3) if n % 3 == 0 else None)
                for n in range(60)
                for name in "ab"
            )
        )
        assert [answer.tail for answer in answers[::2]] == list(range(1, 61))
        assert [answer.tail for answer in answers[1::2]] == list(range(1, 61))
        assert await log.content("a") == await log.content("b") == numbers(*range(60))


async def test_later_requests_stay_behind_those_under_way(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as holder, connected(database_url) as look:
        await log.create("a")
        await log.create("b")
        async with holder.transaction():
            await holder.execute("SELECT FROM run_gateway.streams WHERE path = 'a' FOR UPDATE")
            first = asyncio.gather(*(log.append("a", b"%d" % n) for n in range(3)))
            await until_blocked(look)
            later = asyncio.gather(*(log.append("a", b"%d" % n) for n in range(3, 6)))
            assert (await log.append("b", b"0")).tail == 1, "another stream does not wait for this one"
            assert not first.done()
            assert not later.done()
        assert [answer.tail for answer in [*await first, *await later]] == [1, 2, 3, 4, 5, 6]
        assert await log.content("a") == numbers(*range(6))


async def test_each_request_is_judged_for_itself(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("json")
        await log.create("text", "text/plain")
        await log.create("closed", closed=True)
        results = await asyncio.gather(
            log.append("json", b"1"),
            log.append("text", b"1"),
            log.append("text", b"hello", type="text/plain"),
            log.append("closed", b"1"),
            log.append("nowhere", b"1"),
            log.append("json", b"2"),
            return_exceptions=True,
        )
        assert [result if isinstance(result, Appended) else type(result) for result in results] == [
            Appended(1, False, False),
            errors.ContentTypeMismatch,
            Appended(1, False, False),
            errors.StreamClosed,
            errors.StreamNotFound,
            Appended(2, False, False),
        ]
        assert await log.content("json") == b"1,2"
        assert await log.content("text") == b"hello"


async def test_what_the_database_chokes_on_fails_alone(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("a")
        await log.create("b")
        results = await asyncio.gather(
            log.append("a", b"1"), log.append("no\0text", b"1"), log.append("b", b"1"), return_exceptions=True
        )
        assert results[0] == results[2] == Appended(1, False, False)
        assert isinstance(results[1], errors.Unavailable)
        assert await log.content("a") == await log.content("b") == b"1"


async def test_news_that_does_not_fit_a_notification_repeats_nothing(database_url: str) -> None:
    async with opened(database_url) as log:
        long = "x" * 1024
        await log.create(long)
        await log.create("neighbour")
        event = b'"%b"' % (b"y" * 6_990)
        results = await asyncio.gather(log.append(long, event), log.append("neighbour", b"1"), return_exceptions=True)
        assert list(results) == [Appended(1, False, False)] * 2
        assert await log.content("neighbour") == b"1"
        assert await log.content(long) == event


async def test_whoever_stops_waiting_takes_nothing_from_the_others(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as holder, connected(database_url) as look:
        await log.create("s")
        async with holder.transaction():
            await holder.execute("SELECT FROM run_gateway.streams WHERE path = 's' FOR UPDATE")
            appends = [asyncio.create_task(log.append("s", b"%d" % n)) for n in range(3)]
            await until_blocked(look)
            appends[1].cancel()
            with pytest.raises(asyncio.CancelledError):
                await appends[1]
        assert (await appends[0]).tail == 1
        assert (await appends[2]).tail == 3
        assert await log.content("s") == b"0,1,2"


async def test_readers_here_hear_of_a_commit_before_its_writer_does(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("s")
        await log.append("s", b"1", b"2")
        assert log.news == [News("s", 1, 2, body=b"1,2")]
        await log.append("s", close=True)
        assert log.news[1:] == [News("s", 3, 2, closed=True, body=b"")]
        with pytest.raises(errors.StreamClosed):
            await log.append("s", b"3")
        assert (await log.append("s", close=True)).duplicate
        assert len(log.news) == 2, "what changes nothing is no news"


async def test_more_than_may_wait_is_refused_and_changes_nothing(database_url: str) -> None:
    async with (
        opened(database_url, max_pending=10_000) as log,
        connected(database_url) as holder,
        connected(database_url) as look,
    ):
        await log.create("s")
        async with holder.transaction():
            await holder.execute("SELECT FROM run_gateway.streams WHERE path = 's' FOR UPDATE")
            under_way = asyncio.create_task(log.append("s", b"0"))
            await until_blocked(look)
            waiting = [asyncio.create_task(log.append("s", b'"%b"' % (b"x" * 3_000))) for _ in range(4)]
            await asyncio.sleep(0)  # each of them has taken its place
            with pytest.raises(errors.TooManyPending):
                await log.append("s", b"1")
        assert (await under_way).tail == 1
        assert [(await task).tail for task in waiting] == [2, 3, 4, 5]
        assert (await log.append("s", b"1")).tail == 6, "when the others are through there is room again"


# Idempotent producers


def any_request(chance: random.Random, path: str, seen: list[AppendRequest]) -> AppendRequest:
    """A request as producers make them: mostly the next one, sometimes an old, a strange or a repeated one."""
    if seen and chance.random() < 0.25:
        return chance.choice(seen[-12:])
    producer = None
    if chance.random() < 0.7:
        id = chance.choice("pqr")
        mine = [r.producer for r in seen if r.producer is not None and r.producer.id == id and r.path == path]
        last = max(((p.epoch, p.seq) for p in mine), default=(0, -1))
        producer = chance.choices(
            [
                Producer(id, last[0], last[1] + 1),
                Producer(id, last[0] + 1, 0),
                Producer(id, last[0], last[1] + 1 + chance.randint(1, 3)),
                Producer(id, max(last[0] - 1, 0), chance.randint(0, 3)),
                Producer(id, last[0] + chance.randint(1, 2), chance.randint(0, 2)),
            ],
            [12, 1, 1, 1, 1],
        )[0]
    events = [b"%d" % chance.randrange(10**9) for _ in range(chance.choices([1, 2, 0], [6, 2, 1])[0])]
    close = not events or chance.random() < 0.02
    stream_seq = None if chance.random() < 0.8 else chance.choice(["", "b", "ÿ", "z", "Z"]) + f"{len(seen):04}"
    media = None if not events else chance.choices([JSON, "text/plain"], [15, 1])[0]
    return AppendRequest(path, media, events, close, stream_seq, producer)


@pytest.mark.parametrize("seed", range(12))
async def test_every_answer_is_that_of_the_specification(database_url: str, seed: int) -> None:
    chance = random.Random(seed)
    async with opened(database_url) as log:
        streams: dict[str, ModelStream] = {}
        seen: dict[str, list[AppendRequest]] = defaultdict(list)
        kinds = set()
        for number in range(40):
            if number % 4 == 0:
                await log.create(f"s{number}")
                streams[f"s{number}"] = ModelStream(JSON)
            batch = []
            for _ in range(chance.randint(1, 25)):
                path = chance.choice(list(streams)[-4:])
                batch.append(any_request(chance, path, seen[path]))
                seen[path].append(batch[-1])
            answers = await asyncio.gather(*(outcome(log, request) for request in batch))
            # Requests of one stream are applied in the order in which they came, whatever goes on around them.
            for request, answer in zip(batch, answers, strict=True):
                expected = streams[request.path].append(request)
                assert answer == expected, request
                kinds.add(expected if isinstance(expected, type) else expected.duplicate)
        for path, stream in streams.items():
            assert await log.content(path) == b",".join(stream.events)
            assert (await log.reader.stat(path)).closed == stream.closed
        assert len(kinds) >= 6, "else this seed shows little"


async def test_the_numbers_that_a_producer_needs_come_with_the_refusal(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("s")
        await log.append("s", b"0", producer=Producer("p", 4, 0))
        await log.append("s", b"1", producer=Producer("p", 4, 1))
        with pytest.raises(errors.ProducerSequenceGap) as gap:
            await log.append("s", b"2", producer=Producer("p", 4, 7))
        assert gap.value.headers == [(b"producer-expected-seq", b"2"), (b"producer-received-seq", b"7")]
        with pytest.raises(errors.StaleEpoch) as stale:
            await log.append("s", b"2", producer=Producer("p", 3, 0))
        assert stale.value.headers == [(b"producer-epoch", b"4")]
        with pytest.raises(errors.NewEpochMustStartAtZero):
            await log.append("s", b"2", producer=Producer("p", 5, 1))
        with pytest.raises(errors.ProducerSequenceGap) as unknown:
            await log.append("s", b"2", producer=Producer("q", 0, 1))
        assert unknown.value.headers == [(b"producer-expected-seq", b"0"), (b"producer-received-seq", b"1")]
        duplicate = await log.append("s", b"0", producer=Producer("p", 4, 0))
        assert duplicate == Appended(2, True, False, 4, 1), "it names the highest sequence"


async def test_retries_through_any_machine_are_applied_once(database_url: str) -> None:
    chance = random.Random(7)

    async def produce(id: str, machines: list[Log]) -> None:
        for seq in range(25):
            tries = [
                outcome(
                    chance.choice(machines), AppendRequest("s", JSON, [b'"%b%d"' % (id.encode(), seq)], producer=claim)
                )
                for claim in [Producer(id, 0, seq)] * chance.randint(1, 3)
            ]
            answers = await asyncio.gather(*tries)
            assert [isinstance(answer, Appended) and answer.duplicate for answer in answers].count(False) == 1

    async with opened(database_url) as one, opened(database_url, machine="m2") as other:
        await one.create("s")
        await asyncio.gather(*(produce(id, [one, other]) for id in "abcd"))
        events = (await one.content("s")).split(b",")
        for id in "abcd":
            own = [event for event in events if event[1:2] == id.encode()]
            assert own == [b'"%b%d"' % (id.encode(), seq) for seq in range(25)]


# What nobody knows

STALL = {
    # A deferred trigger runs within COMMIT, before it takes effect.
    "before the commit takes effect": """
        CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER stall AFTER INSERT ON run_gateway.events DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION stall();
    """,
    # News is composed after the commit, in the next transaction of the same CALL.
    "after it took effect, before the answer": """
        CREATE OR REPLACE FUNCTION run_gateway.news(
            machine text, path text, first bigint, last bigint, closed boolean, body text)
        RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN 'x'; END $$;
    """,
}


@pytest.mark.parametrize("moment", STALL)
async def test_a_connection_lost_in_a_commit_is_in_doubt_until_a_retry(database_url: str, moment: str) -> None:
    async with opened(database_url) as log, connected(database_url) as holder:
        await log.create("s")
        await log.create("t")
        await holder.execute(STALL[moment])
        await holder.execute("SELECT pg_advisory_lock(1)")
        appends = asyncio.gather(
            log.append("s", b"1", producer=Producer("p", 0, 0)),
            log.append("t", b"1", close=True, producer=Producer("p", 0, 0)),
            return_exceptions=True,
        )
        await until_blocked(holder)
        while not appends.done():  # one after the other, for each has a lane to itself
            await holder.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            await asyncio.sleep(0.01)
        assert [type(result) for result in await appends] == [errors.Unavailable] * 2
        assert sorted(log.doubts) == ["s", "t"], "readers have to look for themselves"
        assert log.news == []
        await holder.execute("SELECT pg_advisory_unlock(1)")

        applied = moment.startswith("after")
        for _ in range(2):
            again = await log.append("s", b"1", producer=Producer("p", 0, 0))
            assert again == Appended(1, applied, False, 0, 0)
            again = await log.append("t", b"1", close=True, producer=Producer("p", 0, 0))
            assert again == Appended(1, applied, True, 0, 0)
            applied = True
        assert await log.content("s") == await log.content("t") == b"1"


async def test_a_database_that_is_away_is_unavailable_and_comes_back(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as holder:
        await log.create("s")
        await holder.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        results = [await outcome(log, AppendRequest("s", JSON, [b"1"], producer=Producer("p", 0, 0))) for _ in range(6)]
        possible = (errors.Unavailable, results[5], Appended(1, False, False, 0, 0))
        assert all(result in possible for result in results[:5])
        assert results[5] in (Appended(1, True, False, 0, 0), Appended(1, False, False, 0, 0))
        assert await log.content("s") == b"1"


async def test_a_stream_that_appears_in_the_middle_is_judged_locked(database_url: str) -> None:
    async with (
        opened(database_url) as log,
        connected(database_url) as holder,
        connected(database_url) as other,
        connected(database_url) as look,
        connected(database_url) as writer,
    ):
        await other.execute(  # else it would wait for 0.1 s, and go on without `a`
            "DO $$ BEGIN EXECUTE (SELECT string_agg("
            "format('ALTER FUNCTION %s SET lock_timeout = 0', oid::regprocedure), ';')"
            " FROM pg_proc WHERE proname IN ('append_plain', 'append_batch')); END $$"
        )
        await log.create("a")
        await holder.execute("BEGIN; SELECT FROM run_gateway.streams WHERE path = 'a' FOR UPDATE")
        appends = asyncio.ensure_future(
            writer.fetchrow(  # by itself: the Writer may send the two one after the other
                "SELECT verdicts FROM run_gateway.append_plain("
                "ARRAY['a', 'b'], 'application/json', 1, ARRAY[1, 2], ARRAY[1, 1], ARRAY['1', '2']::bytea[])"
            )
        )
        await until_blocked(look)  # it has looked for b, which does not exist, and waits for a
        await log.create("b")
        await other.execute("BEGIN")
        await other.execute(
            "SELECT * FROM run_gateway.append_batch(ARRAY['b'], ARRAY['application/json'], ARRAY[0], ARRAY[true],"
            " NULL, NULL, NULL, NULL, '{}', '{}', '{}', NULL)"
        )
        await holder.execute("ROLLBACK")
        blocked = asyncio.create_task(until_blocked(look))  # if it judges b after all, it has to wait for its lock
        appends.add_done_callback(lambda _: blocked.cancel())
        await asyncio.wait([blocked])
        await other.execute("COMMIT")
        row = await appends
        assert row is not None
        assert row["verdicts"][0] == "appended"
        assert row["verdicts"][1] in ("closed", "not_found")
        assert (await log.content("a"), await log.content("b")) == (b"1", b"")


# How it is done


OTHERS = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


async def test_appends_never_scan_a_table_even_one_planned_empty(database_url: str) -> None:
    async def read() -> dict[str, int]:
        """How many times a table was read from one end to the other, and how many of its rows an index has led to."""
        async with connected(database_url) as look, asyncio.timeout(60):
            while await look.fetchval(OTHERS):  # noqa: ASYNC110  a backend reports its counts when it ends
                await asyncio.sleep(0.01)
            rows = await look.fetch(
                "SELECT relname, seq_scan, coalesce(idx_tup_fetch, 0) AS found FROM pg_stat_user_tables"
                " WHERE schemaname = 'run_gateway' AND relname IN ('streams', 'events', 'producers')"
            )
        return {row["relname"]: row["seq_scan"] for row in rows} | {
            f"{row['relname']} by index": row["found"] for row in rows
        }

    async def rounds(log: Log, first: int, last: int) -> None:
        for round in range(first, last):
            await asyncio.gather(*(log.append(f"s{n}", b"1", b"2", producer=Producer("p", 0, round)) for n in range(8)))
            await asyncio.gather(*(log.append(f"s{n}", b"3") for n in range(8)))
            await log.reader.read("s1", round)
            await log.reader.read("s1", 0, last_events=2)

    many = 2_000
    async with opened(database_url) as log, connected(database_url) as look:
        await look.execute("ALTER TABLE run_gateway.streams SET (autovacuum_enabled = off)")  # it looks at tables, too
        await log.create("s0")
        await look.execute("ANALYZE")  # it has one row, and that is what a plan is made for
        for n in range(1, 8):
            await log.create(f"s{n}")
    before = await read()
    async with opened(database_url, pool=1) as log, connected(database_url) as look:
        await rounds(log, 0, 6)  # five in which a plan may still be made anew
        await look.execute(
            "INSERT INTO run_gateway.streams (path, content_type, media_type)"
            f" SELECT 'x' || n, 'text/plain', 'text/plain' FROM generate_series(1, {many}) n"
        )
        await rounds(log, 6, 18)
    grown = {table: count - before[table] for table, count in (await read()).items() if count != before[table]}
    assert not [table for table in grown if not table.endswith("by index")]
    assert grown["streams by index"] < many, "what was looked for is not found by looking at all"


@pytest.mark.parametrize(
    ("where", "told"), [("mdextend", errors.NotWritable), ("SlruReportIOError", errors.Unavailable)]
)
def test_a_full_disk_is_a_refusal_only_where_nothing_changed(where: str, told: type[errors.Unavailable]) -> None:
    """An append notifies after its COMMIT, and a notification needs room as well."""
    fields = {"S": "ERROR", "C": "53100", "M": "No space left on device", "R": where}
    assert type(translated(asyncpg.PostgresError.new(fields))) is told
