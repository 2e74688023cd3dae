"""JSON mode (§9.1): messages are the very bytes that came, one level of an array apart."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.errors import InvalidJson
from gateway.protocol.json_body import messages

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from(["[", "]", ",", '"', "\\", '\\"', '",[', "{", "}", "\n", "\r\n", "\x00", "\u2028", "\x7f", " "])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=20
)
SPACE = st.text(" \t\r\n", max_size=3)


@st.composite
def written(draw: st.DrawFn, value: Any) -> str:
    """A value as JSON, in any of the ways that people write it."""

    def space() -> str:
        return draw(SPACE)

    if isinstance(value, list):
        inner = ",".join(space() + draw(written(item)) + space() for item in value)
        return f"[{inner or space()}]"
    if isinstance(value, dict):
        pairs = [f"{space()}{json.dumps(key)}{space()}:{space()}{draw(written(item))}" for key, item in value.items()]
        return "{" + (",".join(pair + space() for pair in pairs) or space()) + "}"
    return json.dumps(value, ensure_ascii=draw(st.booleans()))


@st.composite
def bodies(draw: st.DrawFn) -> tuple[Any, bytes]:
    value = draw(VALUES | st.lists(VALUES, min_size=1, max_size=5))
    return value, (draw(SPACE) + draw(written(value)) + draw(SPACE)).encode()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"event": "created"}', [b'{"event": "created"}']),
        (b'[{"event": "a"}, {"event": "b"}]', [b'{"event": "a"}', b'{"event": "b"}']),
        (b"[[1,2], [3,4]]", [b"[1,2]", b"[3,4]"]),
        (b"[[[1,2,3]]]", [b"[[1,2,3]]"]),
        (b"[[]]", [b"[]"]),
        (b"[[],[]]", [b"[]", b"[]"]),
        (b"[{}]", [b"{}"]),
        (b"7", [b"7"]),
        (b'"text"', [b'"text"']),
        (b"null", [b"null"]),
        (b"[null]", [b"null"]),
    ],
)
def test_exactly_one_level_of_an_array_is_flattened(body: bytes, expected: list[bytes]) -> None:
    assert messages(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[1.0,1.10, 1e3 ,\t-0 , 0.1e-7]", [b"1.0", b"1.10", b"1e3", b"-0", b"0.1e-7"]),
        (b"[12345678901234567890123,1]", [b"12345678901234567890123", b"1"]),
        (b'[{"b":1, "a":2},1]', [b'{"b":1, "a":2}', b"1"]),
        (b'[{"a":1,"a":2},1]', [b'{"a":1,"a":2}', b"1"]),
        (b'["\\u00e9","\\/","\\u0000"]', [b'"\\u00e9"', b'"\\/"', b'"\\u0000"']),
        ('["é","🙂"]'.encode(), ['"é"'.encode(), '"🙂"'.encode()]),
        (b'["a,b]","\\"],[\\"", "\\\\"]', [b'"a,b]"', b'"\\"],[\\""', b'"\\\\"']),
        (b'[{"k":"}"},{"k":[1,"]"]}, 1]', [b'{"k":"}"}', b'{"k":[1,"]"]}', b"1"]),
    ],
)
def test_numbers_keep_their_digits_objects_their_order_and_strings_their_escapes(
    body: bytes, expected: list[bytes]
) -> None:
    assert messages(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b' {"a":\n1} \r\n', [b'{"a": 1}']),
        (b'[\n  {"a": 1},\r\n  {"b": 2}\n]\n', [b'{"a": 1}', b'{"b": 2}']),
        (b"[\n1\n]", [b"1"]),
        (b'\t[ "a" ,\n "b" ]', [b'"a"', b'"b"']),
    ],
)
def test_line_breaks_between_tokens_become_spaces(body: bytes, expected: list[bytes]) -> None:
    assert messages(body) == expected


@given(bodies())
def test_joined_the_messages_are_the_json_that_came(case: tuple[Any, bytes]) -> None:
    value, body = case
    if value == []:
        return
    found = messages(body)
    assert json.loads(b"[%b]" % b",".join(found)) == (value if isinstance(value, list) else [value])
    assert len(found) == (len(value) if isinstance(value, list) else 1)


@given(bodies())
def test_each_message_stands_in_the_body_byte_for_byte_but_for_line_breaks(case: tuple[Any, bytes]) -> None:
    value, body = case
    if value == []:
        return
    one_line = body.replace(b"\r", b" ").replace(b"\n", b" ")
    at = 0
    for message in messages(body):
        assert not {b"\r", b"\n"} & {message[i : i + 1] for i in range(len(message))}
        assert message == message.strip()
        at = one_line.index(message, at) + len(message)


OBJECTS = st.lists(
    st.dictionaries(
        st.sampled_from(["a", "},{", "}, {"]), st.sampled_from([1, "},{", "} ,\t{", {}, [{}, {}]]), max_size=2
    ),
    min_size=2,
    max_size=4,
)


@given(OBJECTS.flatmap(lambda value: st.tuples(*map(written, value))), st.lists(SPACE, min_size=8, max_size=8))
def test_objects_are_cut_where_they_meet_and_nowhere_else(objects: tuple[str, ...], spaces: list[str]) -> None:
    """Whatever stands between them, and whatever looks like that inside."""
    body = ",".join(spaces[n] + each + spaces[n + 4] for n, each in enumerate(objects))
    one_line = [each.replace("\r", " ").replace("\n", " ").encode() for each in objects]
    assert messages(f"[{body}]".encode()) == one_line


@given(st.binary(max_size=60) | st.text(alphabet='[]{},:"\\ 1ean\n').map(str.encode))
def test_any_bytes_are_messages_or_refused(body: bytes) -> None:
    try:
        found = messages(body, may_be_empty=True)
    except InvalidJson:
        return
    value = json.loads(body)
    assert json.loads(b"[%b]" % b",".join(found)) == (value if isinstance(value, list) else [value])


@pytest.mark.parametrize("body", [b"[]", b" [ ] ", b"[\n]"])
def test_an_empty_array_is_none_in_a_put_and_refused_in_a_post(body: bytes) -> None:
    assert messages(body, may_be_empty=True) == []
    with pytest.raises(InvalidJson) as caught:
        messages(body)
    assert caught.value.details == "An empty array appends nothing."


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"[1,]",
        b"[1 2]",
        b"{'a':1}",
        b"NaN",
        b"Infinity",
        b"[1,-Infinity]",
        b"01",
        b"+1",
        b"1.",
        b".5",
        b'{"a":1}{"b":2}',
        b'{"a":1}\n{"b":2}',
        b'"a\nb"',
        b'"a\x00b"',
        b"\x00",
        b"\xff",
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b'["\\udc00",1]',
        b"\xef\xbb\xbf{}",
        b"\x0c1",
        b"\xc2\xa01",
        b"1e999",
        b"[1e999,1]",
    ],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJson):
        messages(body)


def test_the_refusal_says_where() -> None:
    with pytest.raises(InvalidJson) as caught:
        messages(b'{"a": 1,\n "b" 2}')
    assert caught.value.details is not None
    assert "line 2" in caught.value.details


@pytest.mark.parametrize("depth", [100, 253, 254, 255, 300, 1000])
def test_what_is_nested_deep_keeps_its_bytes(depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    objects = b'{"a":' * depth + b"1" + b"}" * depth
    assert messages(b"[%b,%b]" % (nested, objects)) == [nested, objects]
    assert messages(objects) == [objects]


@pytest.mark.parametrize("depth", [1025, 100_000])
def test_what_is_nested_too_deep_is_refused(depth: int) -> None:
    for body in (b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth, b"[" * depth):
        with pytest.raises(InvalidJson):
            messages(body)


def test_a_batch_of_many_is_cut_in_time_that_grows_with_it_alone() -> None:
    events = [b'{"n": %d, "text": "a, [b]"}' % n for n in range(50_000)]
    assert messages(b"[%b]" % b", ".join(events)) == events
