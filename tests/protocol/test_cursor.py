"""Cursors (§10.1): digits that follow the clock, and are always ahead of the client's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.offset import CURSOR_EPOCH, cursor, cursor_at, parse_cursor

TIMES = st.floats(CURSOR_EPOCH, CURSOR_EPOCH + 10**9)
CHANCE = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(("seconds", "expected"), [(0, 0), (19.9, 0), (20, 1), (20_000, 1000), (20_019, 1000)])
def test_it_counts_intervals_of_twenty_seconds_since_the_epoch(seconds: float, expected: int) -> None:
    assert cursor(CURSOR_EPOCH + seconds, None, 0.5) == expected


def test_the_epoch_is_that_of_the_specification() -> None:
    assert CURSOR_EPOCH == 1728432000  # 2024-10-09T00:00:00Z


def test_a_client_that_is_behind_gets_that_of_the_clock() -> None:
    assert cursor(CURSOR_EPOCH + 20_000, 999, 0.99) == 1000


@pytest.mark.parametrize(("jitter", "expected"), [(0.0, 1001), (0.5, 1091), (0.999999, 1180)])
def test_a_client_not_behind_is_sent_ahead_by_up_to_an_hour(jitter: float, expected: int) -> None:
    assert cursor(CURSOR_EPOCH + 20_000, 1000, jitter) == expected


@given(TIMES, st.integers(0, 10**14), CHANCE)
def test_it_is_always_greater_than_the_clients_own(now: float, client: int, jitter: float) -> None:
    assert cursor(now, client, jitter) > client


@given(TIMES, st.integers(0, 10**8), CHANCE)
def test_it_is_never_further_ahead_than_the_longest_jitter(now: float, client: int, jitter: float) -> None:
    current = cursor(now, None, jitter)
    assert current <= cursor(now, client, jitter) <= max(current, client) + 180


@given(TIMES, TIMES)
def test_it_never_goes_back_as_time_goes_on(one: float, other: float) -> None:
    assert cursor(min(one, other), None, 0) <= cursor(max(one, other), None, 0)


@given(TIMES, st.none() | st.integers(0, 10**13), CHANCE)
def test_it_is_digits_that_are_understood_when_they_come_back(now: float, client: int | None, jitter: float) -> None:
    token = b"%d" % cursor(now, client, jitter)
    assert token.isdigit()
    assert parse_cursor(token) == int(token)


@pytest.mark.parametrize("token", [b"", b"abc", b"-1", b"+1", b"1.5", b"1e3", b" 1", b"1\n", b"1" * 16, b"\xb2"])
def test_what_is_none_of_ours_counts_for_nothing(token: bytes) -> None:
    assert parse_cursor(token) is None


@given(st.floats(CURSOR_EPOCH, CURSOR_EPOCH + 10**9), st.integers(0, 10**14), st.integers(0, 10**9))
def test_a_shared_cursor_is_ahead_of_its_client(now: float, client: int, count: int) -> None:
    found = cursor_at(now, client, count)
    assert found > client
    assert parse_cursor(b"%d" % found) == found


@given(st.floats(CURSOR_EPOCH, CURSOR_EPOCH + 10**9), st.integers(0, 10**9), st.integers(1, 99))
def test_who_has_read_as_far_waits_at_the_same_address(now: float, count: int, more: int) -> None:
    known = cursor_at(now, None, count)
    assert cursor_at(now, known, count + more) == cursor_at(now, None, count + more)
