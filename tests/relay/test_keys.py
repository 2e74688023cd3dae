"""Where a run's key is."""

from __future__ import annotations

import pytest

from gateway.relay.keys import MAX_KEY, Asked, Source, in_answer

ASKED = Asked(
    headers=[(b"x-run-id", b"r1"), (b"cookie", b"a=1; session=s; b=2"), (b"authorization", b"Bearer t")],
    query={"runId": "q1"},
    path={"thread": "t1"},
    body={"id": "b1", "thread": {"id": 7}, "flag": True, "none": None, "list": [1]},
)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("body:id", "b1"),
        ("body:thread.id", "7"),
        ("body:flag", None),
        ("body:none", None),
        ("body:list", None),
        ("body:id.x", None),
        ("header:X-Run-Id", "r1"),
        ("header:other", None),
        ("query:runId", "q1"),
        ("path:thread", "t1"),
        ("cookie:session", "s"),
        ("cookie:sess", None),
        ("response:location", None),
    ],
)
def test_a_key_is_found_where_the_row_says(source: str, found: str | None) -> None:
    assert ASKED.find(Source.parse(source)) == found


@pytest.mark.parametrize("value", ["", "a\nb", "\x00", "x" * (MAX_KEY + 1)])
def test_what_cannot_be_a_key_is_none(value: str) -> None:
    assert Asked([], {}, {}, {"id": value}).find(Source.parse("body:id")) is None


def test_a_location_counts_by_its_path() -> None:
    location = Source.parse("response:Location")
    for value in (b"/t/1/stream", b"http://other:80/t/1/stream?x=1"):
        assert in_answer(location, [(b"Location", value)]) == "/t/1/stream"
    assert in_answer(location, []) is None


@pytest.mark.parametrize("text", ["id", "body", "body:", "form:id", "body: id"])
def test_what_is_no_source_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a place and a name"):
        Source.parse(text)
