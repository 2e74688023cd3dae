"""Folded reading: consecutive events that differ in a text alone are one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol import json_body
from gateway.protocol.batch import LINE, Batch, Encoding, cuts
from gateway.protocol.errors import InvalidRequest
from gateway.protocol.fold import TURN, Fold, fold_in_pieces, parse_fold
from gateway.protocol.frames import sse
from gateway.protocol.offset import events_between, join

BY_ID = Fold(("type", "id"), ("text",))


def batch_of(events: list[bytes], *, start: int = 0, lengths: bool = True, closed: bool = False) -> Batch:
    sizes = [len(event) for event in events] if lengths else None
    return Batch(start, start + len(events), b",".join(events), True, closed, sizes)


def folded(events: list[bytes], fold: Fold = BY_ID) -> list[Any]:
    batch = json_body.at_once(fold_in_pieces(fold, Encoding.JSON, batch_of(events)))
    found: list[Any] = json.loads(b"[%b]" % batch.body)
    return found


def naive(events: list[Any], fold: Fold) -> list[Any]:
    """The same, as one would say it."""

    def parts(event: Any) -> tuple[Any, Any]:
        texts = [name for name in event if name in fold.joined] if isinstance(event, dict) else []
        if not texts or not all(isinstance(event[name], str) for name in texts):
            return None, None
        return json.dumps([[event[name]] if name in event else [] for name in fold.same]), sorted(texts)

    found: list[Any] = []
    last: tuple[Any, Any] = (None, None)
    for event in events:
        key = parts(event)
        if key[0] is not None and key == last:
            for name in key[1]:
                found[-1][name] += event[name]
        else:
            found.append(json.loads(json.dumps(event)))
        last = key
    return found


SCALARS = st.one_of(st.sampled_from(["a", "b", ""]), st.booleans(), st.none(), st.sampled_from([0, 1, 1.5]))
EVENTS = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["token", "end"])},
        optional={
            "id": SCALARS,
            "text": st.one_of(st.text(max_size=3), st.just(1)),
            "delta": st.text(max_size=2),
            "n": st.integers(0, 9),
        },
    ),
    SCALARS,
    st.lists(SCALARS, max_size=2),
)


@given(st.lists(EVENTS, min_size=1, max_size=30), st.sampled_from([BY_ID, Fold(("type",), ("text", "delta"))]))
def test_it_folds_as_one_would_say_it(events: list[Any], fold: Fold) -> None:
    raw = [json.dumps(event, ensure_ascii=False).encode() for event in events]
    expected = naive(events, fold)
    assert json.dumps(folded(raw, fold)) == json.dumps(expected)


@given(st.lists(EVENTS, min_size=1, max_size=30), st.booleans(), st.booleans())
def test_offsets_stay_as_they_are(events: list[Any], lengths: bool, closed: bool) -> None:
    raw = [json.dumps(event).encode() for event in events]
    start = join(3, 7)
    batch = batch_of(raw, start=start, lengths=lengths, closed=closed)
    result = json_body.at_once(fold_in_pieces(BY_ID, Encoding.JSON, batch))
    assert (result.start, result.end, result.closed, result.up_to_date) == (start, batch.end, closed, True)
    assert result.cuts is None or result.cuts[-1] == (batch.end, len(result.body))


def test_what_is_not_named_stays_as_the_first_wrote_it() -> None:
    first = b'{"type":"t","n":1.10,"big":12345678901234567890123, "text":"a","id":1}'
    assert folded([first]) == [json.loads(first)]
    batch = batch_of([first, b'{"type":"t","id":1,"n":2,"text":"\\u00e9"}'])
    result = json_body.at_once(fold_in_pieces(BY_ID, Encoding.JSON, batch))
    assert result.body == '{"type":"t","n":1.10,"big":12345678901234567890123, "text":"aé","id":1}'.encode()


@pytest.mark.parametrize(
    "events",
    [
        [b'{"type":"t","text":"\\ud83d"}', b'{"type":"t","text":"\\ud83d"}'],
        [
            b'{"type":"t","id":12345678901234567890123,"text":"a"}',
            b'{"type":"t","id":12345678901234567890124,"text":"b"}',
        ],
        [b'{"type":"t","id":1,"text":"a"}', b'{"type":"t","id":true,"text":"b"}'],
        [b'{"type":"t","text":"a"}', b'{"type":"t","id":null,"text":"b"}'],
        [b'{"type":"t","text":"a"}', b'{"type":"t"}'],
        [b'{"type":"t"}', b'{"type":"t"}'],
        [b'{"type":"t","text":1}', b'{"type":"t","text":1}'],
        [b'"a"', b'"a"'],
    ],
)
def test_what_is_not_equal_or_no_text_stays_alone(events: list[bytes]) -> None:
    batch = batch_of(events)
    assert json_body.at_once(fold_in_pieces(BY_ID, Encoding.JSON, batch)).body == batch.body


def test_a_long_chat_is_its_messages_in_lines_of_few_kilobytes() -> None:
    raw = [
        b'{"type":"token","id":"m%d","text":"%b"}' % (n // 400, b"word%d " % n)
        for n in range(4_000)
    ]  # fmt: skip
    batch = batch_of(raw)
    result = json_body.at_once(fold_in_pieces(BY_ID, Encoding.JSON, batch))
    assert len(json.loads(b"[%b]" % result.body)) == 10 and len(result.body) * 3 < len(batch.body)
    at, count = 0, 0
    for position, end in cuts(Encoding.JSON, result, LINE):
        events = json.loads(b"[%b]" % result.body[at:end])
        count += 400 * len(events)
        assert events_between(0, position) == count, "an offset is after the events that were folded"
        assert end - at <= LINE
        at = end + 1
    assert count == 4_000
    assert sse(Encoding.JSON, result, b"1").count(b"event: control") == len(cuts(Encoding.JSON, result, LINE))


def test_it_gives_way_now_and_then_and_is_shared() -> None:
    batch = batch_of([b'{"type":"t","id":%d,"text":"a"}' % n for n in range(5 * TURN)])
    work = fold_in_pieces(BY_ID, Encoding.JSON, batch)
    assert sum(1 for _ in work) == 10, "half of them to look, half to write"
    again = fold_in_pieces(BY_ID, Encoding.JSON, batch)
    assert sum(1 for _ in again) == 0
    assert json_body.at_once(fold_in_pieces(Fold(("id",), ("text",)), Encoding.JSON, batch)).body == batch.body


def test_names_stand_on_both_sides_of_a_colon() -> None:
    assert parse_fold("type,id:text") == BY_ID
    assert parse_fold("type:text,delta") == Fold(("type",), ("text", "delta"))
    wrong = ["", "type", ":text", "type:", "a,,b:c", "a:b:c", "a:a", ",".join("abcdefghi") + ":x", "x" * 300 + ":y"]
    for text in wrong:
        with pytest.raises(InvalidRequest):
            parse_fold(text)


def test_other_streams_than_json_have_nothing_to_fold() -> None:
    for encoding in (Encoding.TEXT, Encoding.BASE64):
        with pytest.raises(InvalidRequest):
            json_body.at_once(fold_in_pieces(BY_ID, encoding, batch_of([b"a", b"b"])))


@pytest.mark.parametrize(
    "event",
    [
        b'{"type":"t","id":"%b","text":"%%b"}' % (b"x" * 5000),  # too large to be compared by its bytes
        b'{"a":{"text":"x"},"type":"t","id":1,"text":"%b"}',  # one such name stands before it
        b'{"a":{"text":"x"},"b":{"text":"y"},"type":"t","id":1,"text":"%b"}',  # and here two
        b'{"type":"t","id":{"n":[1]},"text":"%b"}',
    ],
)
def test_texts_are_joined_wherever_they_stand(event: bytes) -> None:
    """A third one may be written with escapes, or be too short to have both ends of the others."""
    one = json.loads(event % b"")
    assert folded([event % b"a", event % b"b", event % b"c", event % rb"\u0064"]) == [{**one, "text": "abcd"}]
    assert folded([event % b"a", event % b"b", b"{}"]) == [{**one, "text": "ab"}, {}]


def test_two_texts_are_joined_each() -> None:
    fold = Fold(("type",), ("text", "delta"))
    events = [b'{"type":"t","text":"%d","delta":"%d"}' % (n, n + 1) for n in range(3)]
    assert folded(events, fold) == [{"type": "t", "text": "012", "delta": "123"}]


def test_a_batch_whose_events_cannot_be_told_apart_stays() -> None:
    batch = Batch(0, 3, b'{"text":"a"},{"text":"b"},{"text":"c"}', True, False, [12])
    assert json_body.at_once(fold_in_pieces(BY_ID, Encoding.JSON, batch)) is batch
