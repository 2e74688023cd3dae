"""The questions and pages of lists of runs."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import pytest

from gateway.protocol import run_list
from gateway.protocol.errors import InvalidRequest
from gateway.protocol.json_body import at_once
from gateway.protocol.record import STATUSES, RunRecord
from gateway.protocol.run_list import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    decode_cursor,
    encode_cursor,
    page,
    page_in_pieces,
    parse_limit,
    parse_status,
    size,
)

RUN = RunRecord("a", "active", "2026-11-23T02:02:03.144Z")
BYTES = b'{"runId":"a","status":"active","startedAt":"2026-11-23T02:02:03.144Z"}'


def test_a_status_is_one_of_the_known_ones_or_any() -> None:
    assert parse_status(None) is None
    assert [parse_status(status) for status in STATUSES] == list(STATUSES)
    with pytest.raises(InvalidRequest, match="status must be one of active"):
        parse_status("Active")


def test_a_limit_is_a_number_within_bounds() -> None:
    assert (parse_limit(None), parse_limit("1"), parse_limit(str(MAX_LIMIT))) == (DEFAULT_LIMIT, 1, MAX_LIMIT)
    for wrong in ("0", str(MAX_LIMIT + 1), "-1", "1.0", "²", "", "9" * 400):
        with pytest.raises(InvalidRequest, match="limit must be a whole number"):
            parse_limit(wrong)


def test_a_cursor_comes_back_as_it_was_given_out() -> None:
    assert decode_cursor(encode_cursor(b"\x00\xff end")) == b"\x00\xff end"
    assert decode_cursor("n") == b""


def test_only_the_last_page_has_no_cursor() -> None:
    assert page([], None) == b'{"runs":[]}'
    assert page([RUN, RUN], "next") == b'{"runs":[%b,%b],"nextCursor":"next"}' % (BYTES, BYTES)


def test_the_size_of_a_record_is_near_what_it_takes() -> None:
    for metadata in (None, b'{"a":"%b"}' % (b"a" * 5_000)):
        record = replace(RUN, metadata=metadata)
        assert abs(size(record) - len(page([record], None))) < 200


def test_a_large_page_is_written_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_list, "PIECE", 2 * len(BYTES))
    pieces = 0

    def counted() -> Generator[None, None, bytes]:
        nonlocal pieces
        written = page_in_pieces([RUN] * 9, "c")
        for _ in written:
            pieces += 1
            yield
        return b""

    at_once(counted())
    assert pieces == 4
    assert page([RUN] * 9, "c") == b'{"runs":[%b],"nextCursor":"c"}' % b",".join([BYTES] * 9)
