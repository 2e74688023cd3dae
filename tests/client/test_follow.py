"""Following a stream whose connections are cut wherever they can be: every event once, in order, to the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from run_gateway import (
    Backoff,
    BadAnswer,
    Follower,
    NoSuchStream,
    NotLetIn,
    Refused,
    Session,
    StreamGone,
    Trouble,
    client,
    elements,
    stream_url,
)
from run_gateway.retry import retry_after
from tests.client.scripted import Fault, offset, scripted


@asynccontextmanager
async def session() -> AsyncIterator[tuple[Session, list[Trouble]]]:
    """A session that does not wait, and the troubles it had."""
    troubles: list[Trouble] = []
    async with client() as http:
        yield Session(http, on_trouble=troubles.append, backoff=lambda: Backoff(first=0.0)), troubles


async def read(follower: Follower) -> list[str]:
    """All events to the end of the stream."""
    return [event async for step in follower for data in step.data for event in elements(data)]


async def test_a_cut_at_any_byte_loses_and_repeats_nothing() -> None:
    async with scripted("é", {"a": [1]}, 3, closed=True) as stream, session() as (http, _):
        whole = 0
        while True:
            stream.requests.clear()
            stream.faults = iter([Fault(cut=whole)])
            assert await read(Follower(http, [stream.url])) == ['"\\u00e9"', '{"a": [1]}', "3"], whole
            if len(stream.requests) == 1:  # the cut came after the last byte that matters
                break
            whole += 1
    assert whole > 400


@pytest.mark.parametrize("newline", ["\r", "\r\n"])
async def test_a_cut_at_any_byte_between_other_line_ends_as_well(newline: str) -> None:
    async with scripted(1, 2, closed=True) as stream, session() as (http, _):
        stream.newline = newline
        for cut in range(90, 300):
            stream.faults = iter([Fault(cut=cut)])
            assert await read(Follower(http, [stream.url])) == ["1", "2"], cut


async def test_reading_resumes_with_the_last_offset_and_cursor() -> None:
    first_frame = len(await first_bytes())
    async with scripted(1, 2, closed=True, faults=[Fault(cut=first_frame)]) as stream, session() as (http, _):
        assert await read(Follower(http, [stream.url], offset(0))) == ["1", "2"]
    assert [request.query for request in stream.requests] == [
        {"offset": offset(0), "live": "sse"},
        {"offset": offset(1), "live": "sse", "cursor": "7"},
    ]


async def first_bytes() -> bytes:
    """The answer of a stream of 1 and 2 up to the end of its first frame."""
    async with scripted(1, 2, closed=True) as stream, session() as (http, _):
        async with http.http.stream("GET", stream.url, params={"offset": "-1"}) as response:
            body = b"".join([chunk async for chunk in response.aiter_raw()])
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        frame = body[: body.index(b"\n\n", body.index(b"event: control")) + 2]
        return head + b"%x\r\n%b\r\n" % (len(frame), frame)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_failure_that_may_pass_is_tried_again(status: int) -> None:
    async with scripted(1, closed=True, faults=[Fault(status=status)] * 3) as stream, session() as (http, troubles):
        assert await read(Follower(http, [stream.url])) == ["1"]
    assert [trouble.failures for trouble in troubles] == [1, 2, 3]


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("0", 0.0), ("999", 60.0), ("-1", 0.0), ("Mon, 23 Nov 2026 05:00:00 GMT", 0.0)]
)
def test_the_server_may_say_how_long_to_wait(header: str, seconds: float) -> None:
    assert retry_after(httpx.Response(503, headers={"retry-after": header})) == seconds


async def test_what_the_server_asks_for_is_waited_for() -> None:
    faults = [Fault(status=503, headers=("retry-after: 1",))]
    async with scripted(1, closed=True, faults=faults) as stream, session() as (http, troubles):
        await read(Follower(http, [stream.url]))
    assert [trouble.wait for trouble in troubles] == [1.0]


@pytest.mark.parametrize(
    ("status", "error"), [(404, NoSuchStream), (410, StreamGone), (400, Refused), (401, NotLetIn), (307, Refused)]
)
async def test_a_refusal_is_the_end(status: int, error: type[Exception]) -> None:
    async with scripted(faults=[Fault(status=status)]) as stream, session() as (http, _):
        with pytest.raises(error, match=f"{stream.url}.*: {status} Scripted"):
            await read(Follower(http, [stream.url]))
    assert len(stream.requests) == 1


async def test_a_stream_that_is_deleted_on_the_way_is_the_end() -> None:
    async with scripted(1, faults=[Fault(cut=150), Fault(status=404)]) as stream, session() as (http, _):
        with pytest.raises(NoSuchStream):
            await read(Follower(http, [stream.url]))


async def test_an_answer_that_is_no_event_stream_is_the_end() -> None:
    async with scripted(faults=[Fault(status=200)]) as stream, session() as (http, _):
        with pytest.raises(BadAnswer, match="not an event stream"):
            await read(Follower(http, [stream.url]))


async def test_when_one_machine_fails_the_next_goes_on_where_it_ended() -> None:
    async with (
        scripted(1, 2, 3, faults=[Fault(cut=400)]) as a,
        scripted(1, 2, 3, closed=True) as b,
        session() as (http, _),
    ):
        follower = Follower(http, [a.url, b.url])
        assert await read(follower) == ["1", "2", "3"]
    assert follower.url == b.url
    assert b.requests[0].query["offset"] in (offset(1), offset(2))


async def test_events_are_given_as_they_happen() -> None:
    async with scripted(1) as stream, session() as (http, _):
        seen = []
        async for step in Follower(http, [stream.url]):
            seen.append((step.data, step.closed))
            await stream.change(*[2] * (len(seen) == 1), close=len(seen) == 2)
        assert seen == [(("[1]",), False), (("[2]",), False), ((), True)]


def test_waits_grow_to_a_limit_and_never_undercut_what_was_asked() -> None:
    backoff = Backoff(first=1.0, most=5.0, jitter=lambda: 1.0)
    assert [backoff.next() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    backoff.reset()
    assert backoff.next(floor=10.0) == 11.0
    assert Backoff(first=1.0, jitter=lambda: 0.0).next() == 0.5


def test_the_address_of_a_run_and_of_any_stream() -> None:
    assert stream_url("http://h:1/", "17") == "http://h:1/runs/17"
    assert stream_url("http://h", "https://other:1/runs/a%20b") == "https://other:1/runs/a%20b"
    assert stream_url("http://h", "a b/c?d") == "http://h/runs/a%20b%2Fc%3Fd"
    assert stream_url("http://h", "/v1/stream/a/b%2Fc") == "http://h/v1/stream/a/b%2Fc"
