"""Streams come and go over a real Postgres: PUT's judgement, forks, expiry by the database's clock, purge."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.log.housekeeping import KeptElsewhere
from gateway.log.lifecycle import Created
from gateway.log.page_arrays import MANY, Pages
from gateway.log.payload import parse_news
from gateway.protocol import errors
from gateway.protocol.append import Producer
from gateway.protocol.batch import News
from gateway.protocol.create import CreateRequest, Fork
from gateway.protocol.errors import ProtocolError
from gateway.protocol.target import check_path, within
from tests.log.rig import JSON, Log, connected, opened

DAWN, NOON = "2099-01-01T06:00:00Z", "2099-01-01T12:00:00Z"


def wanted(path: str, type: str | None = JSON, *, expires: str | None = None, **other: object) -> CreateRequest:
    fields: dict[str, object] = {"ttl": None, "closed": False, "fork": None, "body": b""} | other
    at = None if expires is None else datetime.fromisoformat(expires)
    return CreateRequest(path, type, expires_at=at, expires_header=expires, **fields)  # type: ignore[arg-type]


async def age(url: str, path: str, seconds: float) -> None:
    """Moves a stream's expiry: time is the database's, and is not slept."""
    async with connected(url) as connection:
        done = await connection.execute(
            "UPDATE run_gateway.streams SET expires_at = clock_timestamp() + $2 * interval '1 second' WHERE path = $1",
            path,
            float(seconds),
        )
        await connection.execute("UPDATE run_gateway.expiries SET check_at = clock_timestamp()")
        assert done == "UPDATE 1"


async def lives_for(url: str, path: str) -> float:
    async with connected(url) as connection:
        left = await connection.fetchval(
            "SELECT extract(epoch FROM expires_at - clock_timestamp())::float FROM run_gateway.streams WHERE path = $1",
            path,
        )
        assert isinstance(left, float)
        return left


async def rows(url: str) -> dict[str, int]:
    async with connected(url) as connection:
        return {
            table: await connection.fetchval(f"SELECT count(*) FROM run_gateway.{table}")
            for table in ("streams", "events", "pages", "producers")
        }


async def purge(log: Log) -> None:
    while await log.housekeeping.purge():
        pass


# Create


async def test_a_stream_is_made_once_and_confirmed_afterwards(database_url: str) -> None:
    async with opened(database_url) as log:
        assert await log.create("s", "Text/Plain; a=B", body=b"hi") == Created(True, "Text/Plain; a=B", 1, False)
        again = await log.create("s", "text/plain", body=b"hi")
        assert again == Created(False, "Text/Plain; a=B", 1, False), "its body is not appended again"
        await log.append("s", b"x", type="text/plain")
        assert (await log.create("s", "text/plain")).tail == 2


@pytest.mark.parametrize(
    ("made", "asked"),
    [
        (wanted("s"), wanted("s", "text/plain")),
        (wanted("s"), wanted("s", ttl=60)),
        (wanted("s", ttl=60), wanted("s")),
        (wanted("s", ttl=60), wanted("s", ttl=61)),
        (wanted("s", expires=DAWN), wanted("s")),
        (wanted("s", expires=DAWN), wanted("s", expires=NOON)),
        (wanted("s", expires=DAWN), wanted("s", ttl=60)),
        (wanted("s"), wanted("s", closed=True)),
        (wanted("s", closed=True), wanted("s")),
        (wanted("s"), wanted("s", None, fork=Fork("source", None, 0))),
        (wanted("s", fork=Fork("source", 1, 0)), wanted("s")),
        (wanted("s", fork=Fork("source", 1, 0)), wanted("s", fork=Fork("source", 2, 0))),
        (wanted("s", fork=Fork("source", 1, 0)), wanted("s", fork=Fork("source", 1, 1))),
        (wanted("s", fork=Fork("source", 1, 0)), wanted("s", fork=Fork("other", 1, 0))),
    ],
)
async def test_the_same_path_with_another_configuration_is_a_conflict(
    database_url: str, made: CreateRequest, asked: CreateRequest
) -> None:
    async with opened(database_url) as log:
        for path in ("source", "other"):
            await log.create(path, body=b"[1,2,3]")
        assert (await log.lifecycle.create(made)).new
        assert not (await log.lifecycle.create(made)).new
        with pytest.raises(errors.StreamExists):
            await log.lifecycle.create(asked)
        assert not (await log.lifecycle.create(made)).new


async def test_the_longest_path_fits_the_index_whatever_it_is_made_of(database_url: str) -> None:
    chance = random.Random(1)
    path = check_path("".join(chr(chance.randrange(0x10000, 0x30000)) for _ in range(512)))  # compresses badly
    with pytest.raises(errors.InvalidRequest):
        check_path(path + "x")
    async with opened(database_url) as log, connected(database_url) as look:
        await look.execute(
            "SELECT run_gateway.begin_subscription("
            " $1, 'pull-wake', NULL, NULL, NULL, ARRAY[$2], NULL, 'w', '1 min', '', '', 1000)",
            "s",
            within("t" * 64, path),
        )
        assert (await log.create(within("t" * 64, path))).new


async def test_of_many_that_create_at_once_one_makes_it(database_url: str) -> None:
    async with opened(database_url) as one, opened(database_url, machine="m2") as other:
        for number in range(5):
            made = await asyncio.gather(
                *(log.create(f"s{number}", body=b"[1]") for log in [one, other] * 5), return_exceptions=True
            )
            assert sorted(isinstance(result, Created) and result.new for result in made) == [False] * 9 + [True]
            assert {result.tail for result in made if isinstance(result, Created)} == {1}
            assert await one.content(f"s{number}") == b"1"


async def test_of_many_that_disagree_one_wins_and_the_others_are_told(database_url: str) -> None:
    async with opened(database_url) as one, opened(database_url, machine="m2") as other:
        results = await asyncio.gather(
            *((one, other)[n % 2].create("s", ttl=100 + n) for n in range(8)), return_exceptions=True
        )
        assert [type(result) for result in results].count(Created) == 1
        assert [type(result) for result in results].count(errors.StreamExists) == 7


async def test_a_closed_stream_may_be_made_with_its_whole_content(database_url: str) -> None:
    async with opened(database_url) as log:
        assert await log.create("s", body=b"[1,2]", closed=True) == Created(True, JSON, 2, True)
        with pytest.raises(errors.StreamClosed):
            await log.append("s", b"3")
        assert (await log.append("s", close=True)).duplicate


async def test_bytes_that_are_no_json_make_no_stream(database_url: str) -> None:
    async with opened(database_url) as log:
        with pytest.raises(errors.InvalidJson):
            await log.create("s", body=b"{")
        with pytest.raises(errors.StreamNotFound):
            await log.reader.stat("s")


# Forks


@pytest.mark.parametrize(
    ("fork", "type", "refusal"),
    [
        (Fork("nowhere", None, 0), None, errors.SourceNotFound),
        (Fork("json", 4, 0), None, errors.ForkOffsetBeyondTail),
        (Fork("json", 2**62, 0), None, errors.ForkOffsetBeyondTail),
        (Fork("json", 1, 3), None, errors.ForkSubOffsetBeyondData),
        (Fork("json", None, 1), None, errors.ForkSubOffsetBeyondData),
        (Fork("json", 0, 9_999_999_999), None, errors.ForkSubOffsetBeyondData),
        (Fork("text", 0, 6), None, errors.ForkSubOffsetBeyondData),
        (Fork("text", 1, 1), None, errors.ForkSubOffsetBeyondData),
        (Fork("json", None, 0), "text/plain", errors.ContentTypeMismatch),
        (Fork("text", 0, 9_999_999_999), None, errors.ForkSubOffsetBeyondData),
    ],
)
async def test_a_fork_that_cannot_be_is_refused_and_pins_nothing(
    database_url: str, fork: Fork, type: str | None, refusal: type[ProtocolError]
) -> None:
    async with opened(database_url) as log:
        await log.create("json", body=b"[1,2,3]")
        await log.create("text", "text/plain", body=b"hello")
        with pytest.raises(refusal):
            await log.create("fork", type, fork=fork)
        for path in ("json", "text"):
            await log.lifecycle.delete(path)
            with pytest.raises(errors.StreamNotFound):
                await log.reader.stat(path)


@pytest.mark.parametrize("type", [None, "TEXT/plain"])
async def test_a_fork_is_open_and_knows_nothing_of_its_sources_writers(database_url: str, type: str | None) -> None:
    async with opened(database_url) as log:
        await log.create("source", "text/plain")
        await log.append("source", b"a", type="text/plain", close=True, stream_seq="z", producer=Producer("p", 5, 0))
        fork = await log.create("fork", type, fork=Fork("source", None, 0))
        assert (fork.tail, fork.closed) == (1, False)
        again = await log.append("fork", b"b", type="text/plain", stream_seq="a", producer=Producer("p", 0, 0))
        assert (again.tail, again.duplicate) == (2, False)


@pytest.mark.parametrize(
    ("source", "fork", "ttl", "expires"),
    [
        ({}, {}, None, None),
        ({}, {"ttl": 60}, 60, None),
        ({}, {"expires": NOON}, None, NOON),
        ({"ttl": 100}, {}, 100, None),
        ({"ttl": 100}, {"ttl": 60}, 60, None),
        ({"ttl": 100}, {"expires": NOON}, None, NOON),
        ({"expires": DAWN}, {}, None, DAWN),
        ({"expires": DAWN}, {"ttl": 60}, 60, None),
        ({"expires": DAWN}, {"expires": NOON}, None, NOON),
    ],
)
async def test_a_forks_expiry_is_its_own_or_its_sources(
    database_url: str, source: dict[str, object], fork: dict[str, object], ttl: int | None, expires: str | None
) -> None:
    async with opened(database_url) as log:
        await log.lifecycle.create(wanted("source", **source))  # type: ignore[arg-type]
        request = wanted("fork", None, fork=Fork("source", None, 0), **fork)  # type: ignore[arg-type]
        assert (await log.lifecycle.create(request)).new
        made = await log.reader.stat("fork")
        assert (made.ttl, made.expires_at) == (ttl, expires)
        if expires is not None:
            left = (datetime.fromisoformat(expires) - datetime.now(UTC)).total_seconds()
            assert abs(await lives_for(database_url, "fork") - left) < 60
        elif ttl is not None:
            assert ttl - 30 < await lives_for(database_url, "fork") <= ttl
        assert not (await log.lifecycle.create(request)).new, "asked for again, it is the same"


# Delete


async def is_not_there(log: Log, path: str) -> None:
    """Whatever is asked of a stream at this path is refused."""
    for attempt in (
        log.reader.stat(path),
        log.reader.read(path, 0),
        log.append(path, b"1"),
        log.lifecycle.delete(path),
    ):
        with pytest.raises(errors.StreamNotFound):
            await attempt


async def test_a_deleted_stream_is_not_there_and_its_path_is_free(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("s", body=b"[1,2]")
        await log.lifecycle.delete("s")
        await is_not_there(log, "s")
        assert await log.create("s", "text/plain", body=b"x") == Created(True, "text/plain", 1, False)
        assert (await log.reader.read("s", 0)).batch.body == b"x"


async def test_an_expired_streams_path_is_free_and_begins_empty(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("s", ttl=60, body=b"[1,2]")
        await log.append("s", b"3", producer=Producer("p", 0, 0), stream_seq="a", close=True)
        await age(database_url, "s", -1)
        assert await log.create("s", ttl=60, body=b"[4]") == Created(True, JSON, 1, False)
        assert await log.content("s") == b"4"
        assert (await log.append("s", b"5", producer=Producer("p", 0, 0), stream_seq="a")).tail == 2
        assert await log.content("s") == b"4,5"


async def test_every_machine_hears_of_the_reuse_of_an_expired_path(database_url: str) -> None:
    """As of something that is known already: Machines of the version before take no notice."""
    async with opened(database_url) as log, connected(database_url) as listening:
        told: list[object] = []
        await listening.add_listener("run_gateway", lambda *message: told.append(message[-1]))
        await log.create("s", ttl=60)
        await age(database_url, "s", -1)
        await log.create("s", ttl=60)
        async with asyncio.timeout(30):
            while not told:
                await listening.execute("SELECT 1")
        assert [parse_news(str(payload)) for payload in told] == [News("s", 0, 0)]
        await age(database_url, "s", -1)
        await log.housekeeping.purge()
        async with asyncio.timeout(30):
            while len(told) < 2:
                await listening.execute("SELECT 1")
        assert parse_news(str(told[1])) == News("s", 0, 0, deleted=True)


async def test_a_source_is_kept_for_its_forks_and_for_nobody_else(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("source", body=b"[1,2]")
        await log.create("fork", None, fork=Fork("source", None, 0))
        await log.lifecycle.delete("source")
        for attempt in (
            log.reader.stat("source"),
            log.reader.read("source", 0),
            log.append("source", b"1"),
            log.append("source", close=True),
            log.lifecycle.delete("source"),
        ):
            with pytest.raises(errors.StreamGone):
                await attempt
        with pytest.raises(errors.PathBlocked):
            await log.create("source")
        with pytest.raises(errors.SourceGone):
            await log.create("another", None, fork=Fork("source", None, 0))
        await purge(log)
        assert await log.content("fork") == b"1,2"

        await log.lifecycle.delete("fork")
        with pytest.raises(errors.StreamNotFound):
            await log.reader.stat("source")
        assert (await log.create("source")).new


async def test_the_last_fork_takes_the_whole_chain_with_it(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("a", body=b"[1]")
        for source, fork in ("ab", "bc", "cd"):
            await log.create(fork, None, fork=Fork(source, None, 0))
            await log.append(fork, b"2", producer=Producer("p", 0, 0))
        for path in "abc":
            await log.lifecycle.delete(path)
            with pytest.raises(errors.StreamGone):
                await log.reader.stat(path)
        assert await log.content("d") == b"1,2,2,2"
        await log.lifecycle.delete("d")
        for path in "abcd":
            with pytest.raises(errors.StreamNotFound):
                await log.reader.stat(path)
        await purge(log)
        assert await rows(database_url) == {"streams": 0, "events": 0, "pages": 0, "producers": 0}


async def test_many_forks_made_and_deleted_at_once_are_counted_right(database_url: str) -> None:
    async with opened(database_url) as one, opened(database_url, machine="m2") as other:
        await one.create("source", body=b"[1]")
        await asyncio.gather(
            *((one, other)[n % 2].create(f"f{n}", None, fork=Fork("source", None, 0)) for n in range(12))
        )
        await asyncio.gather(
            *((one, other)[n % 2].lifecycle.delete(f"f{n}") for n in range(11)), one.lifecycle.delete("source")
        )
        with pytest.raises(errors.StreamGone):
            await one.reader.stat("source")
        assert await one.content("f11") == b"1"
        await one.lifecycle.delete("f11")
        with pytest.raises(errors.StreamNotFound):
            await one.reader.stat("source")


async def test_a_fork_of_a_source_being_deleted_is_whole_or_refused(database_url: str) -> None:
    async with opened(database_url) as one, opened(database_url, machine="m2") as other:
        for n in range(10):
            await one.create(f"s{n}", body=b"[1]")
            fork, _ = await asyncio.gather(
                other.create(f"f{n}", None, fork=Fork(f"s{n}", None, 0)),
                one.lifecycle.delete(f"s{n}"),
                return_exceptions=True,
            )
            await purge(one)
            if isinstance(fork, Created):
                assert await one.content(f"f{n}") == b"1"
            else:
                assert isinstance(fork, errors.SourceNotFound | errors.SourceGone)


# Time


@pytest.mark.parametrize("how", ["ttl", "expires"])
async def test_what_has_expired_is_not_there(database_url: str, how: str) -> None:
    async with opened(database_url) as log:
        await log.lifecycle.create(wanted("s", ttl=60, body=b"[1]") if how == "ttl" else wanted("s", expires=DAWN))
        await age(database_url, "s", -1)
        await is_not_there(log, "s")
        assert await log.reader.positions(["s"]) == {}
        with pytest.raises(errors.SourceNotFound):
            await log.create("fork", None, fork=Fork("s", None, 0))
        made = await log.create("s", "text/plain")
        assert made == Created(True, "text/plain", 0, False)


async def test_a_ttl_of_zero_has_expired_at_once(database_url: str) -> None:
    async with opened(database_url) as log:
        assert (await log.create("s", ttl=0)).new
        with pytest.raises(errors.StreamNotFound):
            await log.reader.stat("s")


async def test_reads_and_writes_slide_a_ttl_and_looking_at_it_does_not(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("s", ttl=1000)
        slides: dict[str, Callable[[], Awaitable[object]]] = {
            "read": lambda: log.reader.read("s", 0),
            "read at now": lambda: log.reader.read("s", 0, last_events=0),
            "append": lambda: log.append("s", b"1"),
            "follow": lambda: log.reader.touch(["s"]),
            "close": lambda: log.append("s", close=True),
        }
        for name, slide in slides.items():
            await age(database_url, "s", 10)
            await slide()
            assert 900 < await lives_for(database_url, "s") <= 1000, name
        await age(database_url, "s", 10)
        await log.reader.stat("s")
        await log.reader.positions(["s"])
        await log.reader.read("s", 0, touch=False)
        assert await lives_for(database_url, "s") <= 10


async def test_a_moment_of_expiry_never_slides(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.lifecycle.create(wanted("s", expires=DAWN))
        await age(database_url, "s", 100)
        await log.reader.read("s", 0)
        await log.reader.touch(["s"])
        await log.append("s", b"1")
        assert await lives_for(database_url, "s") <= 100


async def test_a_refused_append_keeps_nothing_alive(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("s", ttl=1000)
        await age(database_url, "s", 10)
        with pytest.raises(errors.ContentTypeMismatch):
            await log.append("s", b"1", type="text/plain")
        assert await lives_for(database_url, "s") <= 10


# Purge


async def test_purging_goes_in_small_steps(database_url: str) -> None:
    async with opened(database_url, pack=False) as log:
        await log.create("kept", body=b"[1]")
        await log.append("kept", b"2", producer=Producer("p", 0, 0))
        await log.create("deleted")
        for n in range(10):
            await log.append("deleted", *[b"%d" % i for i in range(100)], producer=Producer("p", 0, n))
        await log.lifecycle.delete("deleted")
        await log.create("expired", ttl=60, body=b"[1,2,3]")
        await age(database_url, "expired", -1)
        steps = []
        while removed := await log.housekeeping.purge(150):
            steps.append(removed)
        assert len(steps) > 6
        assert max(steps) <= 160
        assert await rows(database_url) == {"streams": 1, "events": 2, "pages": 0, "producers": 1}
        assert await log.content("kept") == b"1,2"


async def test_an_expired_source_goes_on_for_its_forks(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("source", ttl=60, body=b"[1]")
        await log.lifecycle.create(wanted("fork", None, fork=Fork("source", None, 0), expires=DAWN))
        await age(database_url, "source", -1)
        await purge(log)
        assert await log.content("fork") == b"1"
        await log.lifecycle.delete("fork")
        await purge(log)
        assert await rows(database_url) == {"streams": 0, "events": 0, "pages": 0, "producers": 0}


async def test_machines_purge_at_once_without_conflicts(database_url: str) -> None:
    async with opened(database_url) as one, opened(database_url, machine="m2") as other:
        for n in range(20):
            await one.create(f"s{n}", body=b"[1,2,3]")
            await one.lifecycle.delete(f"s{n}")
        done = await asyncio.gather(*(purge(log) for log in [one, other, one]), return_exceptions=True)
        assert [type(result) for result in done if result is not None] <= [KeptElsewhere] * 2
        await purge(one if done[0] is None or done[2] is None else other)
        assert await rows(database_url) == {"streams": 0, "events": 0, "pages": 0, "producers": 0}


@pytest.mark.parametrize(("size", "shared"), [(100, True), (20_000, False)])
async def test_a_large_stream_is_made_in_several_turns_of_the_loop(
    database_url: str, monkeypatch: pytest.MonkeyPatch, size: int, shared: bool
) -> None:
    cut, turn, turns = Pages.add, 0, list[int]()

    def count() -> None:
        nonlocal turn
        turn += 1
        if len(turns) < 2:
            asyncio.get_running_loop().call_soon(count)

    def add(pages: Pages, *arguments: Any) -> None:
        turns.append(turn)
        cut(pages, *arguments)

    async with opened(database_url) as log:
        acquire = log.lifecycle._database.acquire

        def acquired(*arguments: Any) -> Any:
            turns.append(turn)
            return acquire(*arguments)

        monkeypatch.setattr(Pages, "add", add)
        monkeypatch.setattr(log.lifecycle._database, "acquire", acquired)
        body = b"[%b]" % b",".join([b'"%b"' % (b"x" * size)] * MANY)
        count()
        await log.create("s", body=body)
        assert (turns[0] == turns[1]) is shared
        assert b"[%b]" % await log.content("s") == body
