"""Response headers (§5, §10): each mode's, and what an ETag promises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol import headers
from gateway.protocol.batch import Batch, Encoding, Stream, media_type

OPEN = Stream(5, "s", "text/plain; charset=utf-8", 42, closed=False)
CLOSED = Stream(5, "s", "text/plain; charset=utf-8", 42, closed=True)
AT_42 = b"0000000000000000_0000000000000042"


def test_head_tells_everything_and_is_never_kept() -> None:
    assert headers.of_stream(OPEN) == [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"stream-next-offset", AT_42),
        (b"cache-control", b"no-store"),
        (b"etag", b'"5:-1:0000000000000000_0000000000000042"'),
    ]
    assert (b"stream-closed", b"true") in headers.of_stream(CLOSED)
    assert (b"stream-ttl", b"60") in headers.of_stream(Stream(5, "s", "a/b", 0, False, ttl=60))
    expiring = Stream(5, "s", "a/b", 0, False, expires_at="2030-01-01T00:00:00Z")
    assert (b"stream-expires-at", b"2030-01-01T00:00:00Z") in headers.of_stream(expiring)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (
            Batch(0, 42, b"x", True, False),
            {
                b"vary": b"accept, accept-encoding",
                b"cache-control": b"private, no-cache",
                b"etag": b'"5:-1:0000000000000000_0000000000000042"',
                b"stream-up-to-date": b"true",
            },
        ),
        (
            Batch(0, 42, b"x", True, True),
            {
                b"vary": b"accept, accept-encoding",
                b"cache-control": b"private, max-age=60, stale-while-revalidate=300",
                b"etag": b'"5:-1:0000000000000000_0000000000000042:c"',
                b"stream-up-to-date": b"true",
                b"stream-closed": b"true",
            },
        ),
        (
            Batch(0, 42, b"x", False, False),
            {
                b"vary": b"accept, accept-encoding",
                b"cache-control": b"private, max-age=60, stale-while-revalidate=300",
                b"etag": b'"5:-1:0000000000000000_0000000000000042"',
            },
        ),
    ],
)
def test_a_read_says_how_far_it_went_and_how_long_that_holds(batch: Batch, expected: dict[bytes, bytes]) -> None:
    always = {b"content-type": b"text/plain; charset=utf-8", b"stream-next-offset": AT_42}
    assert dict(headers.of_batch(OPEN, batch, b"-1", cursor=None, now=False)) == always | expected
    with_cursor = dict(headers.of_batch(OPEN, batch, b"-1", cursor=17, now=False))
    assert b"vary" not in with_cursor, "a long-poll is one whatever else is accepted"
    assert with_cursor | {b"vary": expected[b"vary"]} == always | expected | {b"stream-cursor": b"17"}


def test_another_coding_has_another_tag_and_is_named() -> None:
    answer = headers.of_batch(OPEN, Batch(0, 42, b"x", False, False), b"-1", cursor=None, now=False)
    coded = dict(headers.in_coding(answer, b"gzip"))
    tag = b'"5:-1:0000000000000000_0000000000000042:gzip"'
    assert coded == dict(answer) | {b"etag": tag, b"content-encoding": b"gzip"}
    assert tag == headers.coded(headers.etag(OPEN, b"-1", 42, False), b"gzip")


def test_an_answer_that_still_holds_goes_on_as_long_again() -> None:
    answer = headers.of_batch(OPEN, Batch(0, 42, b"x", False, False), b"-1", cursor=None, now=False)
    assert headers.of_unchanged(answer, b'"tag"') == [
        (b"etag", b'"tag"'),
        (b"vary", b"accept, accept-encoding"),
        (b"cache-control", b"private, max-age=60, stale-while-revalidate=300"),
    ]
    assert headers.of_unchanged([headers.NO_STORE], b'"tag"') == [(b"etag", b'"tag"')]


def test_where_the_tail_is_now_no_cache_may_keep() -> None:
    found = dict(headers.of_batch(OPEN, Batch(42, 42, b"", True, False), b"now", cursor=None, now=True))
    assert found[b"cache-control"] == b"no-store"
    assert b"etag" not in found


def test_a_long_poll_without_data_stays_where_its_reader_stands() -> None:
    open_, closed = (dict(headers.of_nothing_new(42, closed, 17)) for closed in (False, True))
    assert open_ == {
        b"stream-next-offset": AT_42,
        b"stream-up-to-date": b"true",
        b"cache-control": b"no-store",
        b"stream-cursor": b"17",
    }
    assert closed == {
        b"stream-next-offset": AT_42,
        b"stream-up-to-date": b"true",
        b"cache-control": b"no-store",
        b"stream-closed": b"true",
    }


@pytest.mark.parametrize("encoding", Encoding)
def test_an_event_stream_says_when_its_data_is_base64(encoding: Encoding) -> None:
    found = dict(headers.of_sse(encoding))
    assert found[b"content-type"] == b"text/event-stream"
    assert found.get(b"stream-sse-data-encoding") == (b"base64" if encoding is Encoding.BASE64 else None)


ENDS = st.tuples(st.integers(1, 9), st.sampled_from([b"-1", b"0_1", AT_42]), st.integers(0, 99), st.booleans())


@given(ENDS, ENDS)
def test_etags_are_equal_only_for_the_same_part_and_state(
    one: tuple[int, bytes, int, bool], other: tuple[int, bytes, int, bool]
) -> None:
    tags = [
        headers.etag(Stream(id, "s", "a/b", 0, False), start, end, closed) for id, start, end, closed in (one, other)
    ]
    assert (tags[0] == tags[1]) == (one == other)
    assert all(tag.startswith(b'"') and tag.endswith(b'"') and tag.count(b'"') == 2 for tag in tags)


@pytest.mark.parametrize("value", [b'"a"', b'W/"a"', b'"b", "a"', b'"b" ,W/"a" , "c"', b"*"])
def test_an_etag_among_those_that_the_client_has_matches(value: bytes) -> None:
    assert headers.etag_matches(value, b'"a"')


@pytest.mark.parametrize("value", [b"", b"a", b'"A"', b'"a:c"', b'"ab"', b'"b", "c"', b'w/"a"'])
def test_any_other_etag_does_not(value: bytes) -> None:
    assert not headers.etag_matches(value, b'"a"')


@pytest.mark.parametrize(
    ("content_type", "encoding"),
    [
        ("application/json", Encoding.JSON),
        ("Application/JSON; charset=utf-8", Encoding.JSON),
        ("application/json;charset=utf-8", Encoding.JSON),
        ("text/plain", Encoding.TEXT),
        ("TEXT/html; charset=utf-8", Encoding.TEXT),
        ("text/html; charset=x", Encoding.BASE64),
        ("application/ndjson", Encoding.BASE64),
        ("application/json-seq", Encoding.BASE64),
        ("application/octet-stream", Encoding.BASE64),
        ("texts/plain", Encoding.BASE64),
    ],
)
def test_a_streams_type_says_how_its_bytes_travel(content_type: str, encoding: Encoding) -> None:
    assert Encoding.of(content_type) is encoding
    assert Stream(1, "s", content_type, 0, False).encoding is encoding


def test_types_are_compared_without_case_and_parameters() -> None:
    assert media_type(" Text/Plain ; charset=UTF-8") == "text/plain" == media_type("text/plain")


def test_an_end_that_was_told_already_is_not_kept() -> None:
    assert headers.of_end(AT_42) == [
        (b"stream-next-offset", AT_42),
        (b"stream-closed", b"true"),
        (b"cache-control", b"no-store"),
    ]


@pytest.mark.parametrize(
    ("batch", "live", "expected"),
    [
        (Batch(0, 42, b"x", False, False), False, b"public, max-age=60, stale-while-revalidate=300"),
        (Batch(0, 42, b"x", True, True), False, b"public, max-age=60, stale-while-revalidate=300"),
        (Batch(0, 42, b"x", True, False), False, b"public, max-age=1"),
        (Batch(0, 42, b"x", True, False), True, b"public, max-age=60, stale-while-revalidate=300"),
    ],
)
def test_what_all_may_read_caches_may_share(batch: Batch, live: bool, expected: bytes) -> None:
    answer = headers.of_batch(OPEN, batch, b"-1", cursor=17 if live else None, now=False)
    shared = dict(headers.shared(answer, live=live))
    assert shared == dict(answer) | {b"cache-control": expected}


def test_that_nothing_came_holds_for_a_second() -> None:
    shared = dict(headers.shared(headers.of_nothing_new(42, False, 17), live=True))
    assert shared[b"cache-control"] == b"public, max-age=1"
