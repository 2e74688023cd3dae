"""Which requests fit a pattern, and what its placeholders stand for."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.relay.patterns import MOST_FIELDS, Pattern, query_of


def test_a_placeholder_stands_for_one_segment() -> None:
    pattern = Pattern.parse("GET /api/chat/{key}/stream")
    assert pattern.match("GET", "/api/chat/c%201/stream", {}) == {"key": "c 1"}
    assert pattern.match("GET", "/api/chat/c/d/stream", {}) is None
    assert pattern.match("GET", "/api/chat//stream", {}) is None
    assert pattern.match("POST", "/api/chat/c/stream", {}) is None


def test_a_query_must_hold_what_the_pattern_names() -> None:
    pattern = Pattern.parse("GET /v1/responses/{key}?stream=true&from={from}")
    assert pattern.match("GET", "/v1/responses/r", query_of(b"from=3&stream=true&x=1")) == {"key": "r", "from": "3"}
    assert pattern.match("GET", "/v1/responses/r", query_of(b"stream=false&from=3")) is None
    assert pattern.match("GET", "/v1/responses/r", {}) is None


def test_a_pattern_that_is_a_placeholder_fits_each_path() -> None:
    assert Pattern.parse("GET {key}").match("GET", "/a/b%20c", {}) == {"key": "/a/b%20c"}


@pytest.mark.parametrize("segment", [".", ".."])
def test_a_path_is_never_filled_with_dots(segment: str) -> None:
    with pytest.raises(KeyError):
        Pattern.parse("GET /rooms/{room}").fill({"room": segment})


def test_what_follows_any_path_has_to_follow_it() -> None:
    pattern = Pattern.parse("POST {at}/cancel?now={now}")
    assert pattern.match("POST", "/a/b/cancel", {"now": "1"}) == {"at": "/a/b", "now": "1"}
    assert pattern.match("POST", "/a/b", {"now": "1"}) is None
    assert pattern.fill({"at": "/a/b", "now": "1"}) == "/a/b/cancel?now=1"


def test_a_placeholder_named_twice_is_one_value() -> None:
    pattern = Pattern.parse("GET /{a}/{a}")
    assert pattern.match("GET", "/x/x", {}) == {"a": "x"}
    assert pattern.match("GET", "/x/y", {}) is None


def test_a_slash_inside_a_value_stays_inside_its_segment() -> None:
    pattern = Pattern.parse("GET /chat/{key}")
    assert pattern.match("GET", "/chat/a%2Fb", {}) == {"key": "a/b"}
    assert pattern.fill({"key": "a/b"}) == "/chat/a%2Fb"


@given(st.text(min_size=1))
def test_what_is_filled_in_is_found_again(value: str) -> None:
    pattern = Pattern.parse("GET /a/{key}/b?c={other}")
    try:
        path, _, query = pattern.fill({"key": value, "other": value}).partition("?")
    except UnicodeEncodeError:  # half of a surrogate pair is no text
        return
    assert pattern.match("GET", path, query_of(query.encode())) == {"key": value, "other": value}


@pytest.mark.parametrize("text", ["/api", "GET api", "FETCH /a", "GET /a/x{key}", "GET /a b", "GET /{a}b", ""])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be a method and a path|stands for a whole segment"):
        Pattern.parse(text)


def test_a_pattern_is_shown_as_it_was_written() -> None:
    for text in ("GET /api/chat/{key}/stream", "GET {key}", "POST {key}/cancel", "GET /a?b={key}&c=d"):
        assert str(Pattern.parse(text)) == text
    assert quote("{") == "%7B"  # why showing one takes care


def test_a_query_of_very_many_fields_is_not_taken_apart() -> None:
    assert query_of(b"from=3" + b"&a" * (MOST_FIELDS - 1))["from"] == "3"
    assert query_of(b"from=3" + b"&a" * MOST_FIELDS) == {}
