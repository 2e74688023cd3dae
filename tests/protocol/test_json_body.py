"""JSON mode (§9.1): messages are the very bytes that came, one level of an array apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.protocol import json_body
from gateway.protocol.errors import BatchTooLarge, InvalidJson
from gateway.protocol.json_body import PIECE, at_once, in_pieces, members_in_pieces, messages

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters())  # half a surrogate pair among them, which is written as an escape
    | st.sampled_from(["[", "]", ",", '"', "\\", '\\"', '",[', "{", "}", "\n", "\r\n", "\x00", "\u2028", "\x7f", " "])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=20
)
SPACE = st.text(" \t\r\n", max_size=3)


def _no_constant(name: str) -> None:
    raise ValueError(name)


def strictly(body: bytes) -> bool:
    """Whether the standard library takes it for JSON: not NaN, and not what only Python reads."""
    try:
        json.loads(body.decode(), parse_constant=_no_constant, parse_float=json_body._finite)
    except ValueError:
        return False
    return True


@pytest.fixture(params=["at once", "in pieces"])
def taken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[bytes]]:
    """`messages`, and what it does with long bodies, in pieces so small that short ones are many."""
    if request.param == "at once":
        return messages
    monkeypatch.setattr(json_body, "PIECE", 7)
    monkeypatch.setattr(json_body, "TOKENS", 2)
    monkeypatch.setattr(json_body, "MUCH", 21)
    return lambda body, **how: json_body.at_once(json_body.in_pieces(body, **how))


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
    return json.dumps(value, ensure_ascii=draw(st.booleans()) or not _encodable(value))


def _encodable(value: Any) -> bool:
    return not isinstance(value, str) or value.encode("utf-8", "replace").decode() == value


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
def test_exactly_one_level_of_an_array_is_flattened(
    taken: Callable[..., list[bytes]], body: bytes, expected: list[bytes]
) -> None:
    assert taken(body) == expected


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
def test_numbers_keep_digits_objects_their_order_strings_escapes(
    taken: Callable[..., list[bytes]], body: bytes, expected: list[bytes]
) -> None:
    assert taken(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b' {"a":\n1} \r\n', [b'{"a": 1}']),
        (b'[\n  {"a": 1},\r\n  {"b": 2}\n]\n', [b'{"a": 1}', b'{"b": 2}']),
        (b"[\n1\n]", [b"1"]),
        (b'\t[ "a" ,\n "b" ]', [b'"a"', b'"b"']),
    ],
)
def test_line_breaks_between_tokens_become_spaces(
    taken: Callable[..., list[bytes]], body: bytes, expected: list[bytes]
) -> None:
    assert taken(body) == expected


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies())
def test_joined_the_messages_are_the_json_that_came(taken: Callable[..., list[bytes]], case: tuple[Any, bytes]) -> None:
    value, body = case
    if value == []:
        return
    found = taken(body)
    assert json.loads(b"[%b]" % b",".join(found)) == (value if isinstance(value, list) else [value])
    assert len(found) == (len(value) if isinstance(value, list) else 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies())
def test_messages_stand_byte_for_byte_but_for_line_breaks(
    taken: Callable[..., list[bytes]], case: tuple[Any, bytes]
) -> None:
    value, body = case
    if value == []:
        return
    one_line = body.replace(b"\r", b" ").replace(b"\n", b" ")
    at = 0
    for message in taken(body):
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


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(OBJECTS.flatmap(lambda value: st.tuples(*map(written, value))), st.lists(SPACE, min_size=8, max_size=8))
def test_objects_are_cut_where_they_meet_and_nowhere_else(
    taken: Callable[..., list[bytes]], objects: tuple[str, ...], spaces: list[str]
) -> None:
    """Whatever stands between them, and whatever looks like that inside."""
    body = ",".join(spaces[n] + each + spaces[n + 4] for n, each in enumerate(objects))
    one_line = [each.replace("\r", " ").replace("\n", " ").encode() for each in objects]
    assert taken(f"[{body}]".encode()) == one_line


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.text(alphabet='[]{},:"\\ 1ean\n').map(str.encode))
def test_any_bytes_are_messages_or_refused(taken: Callable[..., list[bytes]], body: bytes) -> None:
    try:
        found = taken(body, may_be_empty=True)
    except InvalidJson:
        assert not strictly(body)
        return
    assert strictly(body)
    value = json.loads(body)
    assert json.loads(b"[%b]" % b",".join(found)) == (value if isinstance(value, list) else [value])


@pytest.mark.parametrize("body", [b"[]", b" [ ] ", b"[\n]"])
def test_an_empty_array_is_none_in_a_put_and_refused_in_a_post(taken: Callable[..., list[bytes]], body: bytes) -> None:
    assert taken(body, may_be_empty=True) == []
    with pytest.raises(InvalidJson) as caught:
        taken(body)
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
        b"\xef\xbb\xbf{}",
        b"\x0c1",
        b"\xc2\xa01",
        b"1e999",
        b"[1e999,1]",
    ],
)
def test_what_is_not_json_is_refused(taken: Callable[..., list[bytes]], body: bytes) -> None:
    with pytest.raises(InvalidJson):
        taken(body)


def test_the_refusal_says_where() -> None:
    with pytest.raises(InvalidJson) as caught:
        messages(b'{"a": 1,\n "b" 2}')
    assert caught.value.details is not None
    assert "line 2" in caught.value.details


@pytest.mark.parametrize("depth", [100, 253, 254, 255, 300, 1000])
def test_what_is_nested_deep_keeps_its_bytes(taken: Callable[..., list[bytes]], depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    objects = b'{"a":' * depth + b"1" + b"}" * depth
    assert taken(b"[%b,%b]" % (nested, objects)) == [nested, objects]
    assert taken(objects) == [objects]


@pytest.mark.parametrize("depth", [1025, 100_000])
def test_what_is_nested_too_deep_is_refused(taken: Callable[..., list[bytes]], depth: int) -> None:
    for body in (b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth, b"[" * depth):
        with pytest.raises(InvalidJson):
            taken(body)


def test_a_batch_of_many_is_cut_in_time_that_grows_with_it_alone() -> None:
    events = [b'{"n": %d, "text": "a, [b]"}' % n for n in range(50_000)]
    assert messages(b"[%b]" % b", ".join(events)) == events


@pytest.mark.parametrize("half", ["\\ud83d", "\\udc00", "\\uD83D\\u0041", "\\udc00\\ud83d", "\\\\ud83d\\udc00"])
def test_half_an_emoji_is_kept_and_so_are_its_neighbours(taken: Callable[..., list[bytes]], half: str) -> None:
    """RFC 8259 §8.2 allows it, and JSON.stringify writes it so."""
    event = b'{"text":"%b"}' % half.encode()
    assert taken(event) == [event]
    assert taken(b'[{"n": 1},%b, "\xf0\x9f\x98\x80",%b]' % (event, event)) == [
        b'{"n": 1}', event, b'"\xf0\x9f\x98\x80"', event,
    ]  # fmt: skip


@pytest.mark.parametrize("number", [b"1e999", b"-1E+4000", b"1" * 5000])
def test_numbers_beyond_a_double_are_refused_and_named(taken: Callable[..., list[bytes]], number: bytes) -> None:
    """RFC 8259 §6 lets one; readers in Python could not read the last, nor those in JavaScript any."""
    with pytest.raises(InvalidJson, match="Event 1, counted from 0: A number"):
        taken(b'["\\ud83d",%b]' % number)


@pytest.mark.parametrize(
    ("events", "number"),
    [
        ([b"NaN"], 0),
        ([b"1", b'{"a":-Infinity}'], 1),
        ([b"1", b'"abcdefghij"', b'"\\x"', b"2", b'"klmnopqrst"'], 2),
        ([b'{"long":[1,2,3,4,5,6,7,8,9]}', b"[1 2]", b"3"], 1),
        ([b'{"long":[1,2,3,4,5,6,7,8,9,x,10,11,12,13]}', b"2", b"3"], 0),
        ([b'"a long string, longer than a piece"', b'"another \x01 that is not one"'], 1),
        ([b'"\xf0\x9f"', b"1"], 0),
        ([b"1", b'"a long string with half an emoji \xf0\x9f"', b"1"], 1),
        ([b"1", b""], 1),
    ],
)
def test_a_refusal_names_the_event(taken: Callable[..., list[bytes]], events: list[bytes], number: int) -> None:
    with pytest.raises(InvalidJson) as caught:
        taken(b"[%b]" % b",".join(events))
    assert (caught.value.details or "").startswith(f"Event {number}, counted from 0: ")


def test_too_many_are_refused_before_all_is_read(taken: Callable[..., list[bytes]]) -> None:
    assert len(taken(b"[1,2,3]", most=3)) == 3
    for body in (b"[1,2,3,4]", b"[1,2,3,4,5,6,7,8]"):
        with pytest.raises(BatchTooLarge):
            taken(body, most=3)


@pytest.mark.parametrize(
    "body",
    [
        b"[%b]" % b" , ".join([b'{"a":[%b]}' % b",".join([b"{}"] * 20_000)] * 20),
        b"[[%b]]" % b",".join([b"[[[[[]]]]]"] * 100_000),
        b"[%b]" % b",".join([b"[" * 500 + b"]" * 500] * 500),
        b'{"a":[%b]}' % b",".join([b"1"] * 500_000),
        b'["%b",2]' % (b'\\"' * 500_000),
        b'["%b"]' % ("\U0001f600".encode() * 250_000),
        b'[{"%b":1}]' % (b"k" * 1_000_000),
        b"[1%b,2]" % (b" " * 1_000_000),
        b"[%b]" % b" ".join([b'"\\ud83d",'] * 100_000 + [b"1"]),
    ],
    ids=lambda body: body[:12].decode("latin-1"),
)
def test_a_long_body_is_judged_in_pieces(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: nothing that is parsed at once is longer than a few pieces, and no turn has many tokens."""
    judged: list[int] = []
    fault = json_body.fault_of

    def counted(text: bytes) -> str | None:
        judged.append(len(text))
        return fault(text)

    monkeypatch.setattr(json_body, "fault_of", counted)
    events = json_body.in_pieces(body)
    turns = 0
    try:
        while True:
            next(events)
            turns += 1
    except StopIteration as end:
        found: list[bytes] = end.value
    assert turns >= len(body) / json_body.PIECE - 1
    assert max(judged) < 3 * json_body.PIECE
    assert sum(judged) < 2 * len(body)
    whole = json.loads(body, parse_int=len)
    assert len(found) == (len(whole) if isinstance(whole, list) else 1)
    assert json.loads(b"[%b]" % b",".join(found), parse_int=len) == (whole if isinstance(whole, list) else [whole])


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), VALUES, max_size=5), SPACE, st.booleans())
def test_the_members_of_an_object_are_kept_as_they_are_written(
    value: dict[str, Any], space: str, in_ascii: bool
) -> None:
    def written(part: object) -> str:
        text = json.dumps(part, ensure_ascii=in_ascii)
        return space + (text if _encodable(text) else json.dumps(part)) + space

    body = ",".join(f"{written(name)}:{written(part)}" for name, part in value.items()).join("{}")
    found = at_once(members_in_pieces(body.encode(), 9))
    assert found == {name: written(part).strip().encode() for name, part in value.items()}


@pytest.mark.parametrize(
    ("body", "details"),
    [
        (b"[1]", "It is not an object."),
        (b"1", "It is not an object."),
        (b'{"a":1', "Expecting ',' delimiter at line 1, column 7."),
        (rb'{"\ud83d":1}', "A name holds half of a surrogate pair."),
        (b'{"a":NaN}', "NaN is not JSON."),
    ],
)
def test_what_has_no_members_is_refused(body: bytes, details: str) -> None:
    with pytest.raises(InvalidJson) as refused:
        at_once(members_in_pieces(body, 9))
    assert refused.value.details == details


def test_of_members_of_one_name_the_last_counts() -> None:
    assert at_once(members_in_pieces(b'{"a":1,"b":[],"a":2}', 3)) == {"a": b"2", "b": b"[]"}
    with pytest.raises(BatchTooLarge):
        at_once(members_in_pieces(b'{"a":1,"b":[],"a":2}', 2))


def test_a_long_object_is_cut_in_pieces() -> None:
    body = b'{"a":[%b],"b":"%b"}' % (b",".join([b"[[]]"] * 100_000), b"b" * 500_000)
    work, turns = members_in_pieces(body, 9), 0
    while True:
        try:
            next(work)
        except StopIteration as end:
            found = end.value
            break
        turns += 1
    assert {name: len(value) for name, value in found.items()} == {"a": 500_001, "b": 500_002}
    assert turns >= 2 * (len(body) / json_body.PIECE - 1)


def test_a_number_of_too_many_digits_is_refused() -> None:
    with pytest.raises(InvalidJson, match="Event 1, counted from 0: A number"):
        messages(b"[1,1%b]" % (b"1" * 1_000_000))


@pytest.mark.parametrize("rest", [b"", b",2", b",2," + b"3," * json_body.PIECE + b"3"])
@pytest.mark.parametrize("before", [1, json_body.PIECE, 2 * json_body.PIECE + 1])
def test_a_fault_inside_a_long_event_names_that_event(before: int, rest: bytes) -> None:
    with pytest.raises(InvalidJson, match="Event 1, counted from 0: Expecting value"):
        messages(b"[0,[%bnul,%b1]%b]" % (b"1," * before, b"1," * json_body.PIECE, rest))


@pytest.mark.parametrize("size", [PIECE - 1, PIECE, 2 * PIECE + 1, 3 * PIECE + 7])
@pytest.mark.parametrize("space", [" ", "\n", "\t\r\n "])
def test_space_of_any_size_is_no_part_of_an_event(size: int, space: str) -> None:
    blank = (space * size)[:size]
    for parts in (["", "[", "1", ",", '{"a":1}', ",", '" x "', "]", ""], ["", "[", "[1]", "]", ""], ["", "1", ""]):
        for place in range(len(parts) - 1):
            body = "".join([*parts[: place + 1], blank, *parts[place + 1 :]]).encode()
            assert messages(body) == messages("".join(parts).encode()), place
        assert messages(blank.join(parts).encode()) == messages("".join(parts).encode())
    spaces = b'"%b"' % (b" " * size)
    assert messages(b"[%b]" % spaces) == messages(spaces) == [spaces], "inside a string it is the event's own"
    for empty in ("[]", f"[{blank}]", f"{blank}[{blank}]{blank}"):
        assert messages(empty.encode(), may_be_empty=True) == []
    for wrong in (
        f"[{blank},1]",
        f"[1,{blank}]",
        f"[1{blank}2]",
        f"[1,{blank},1]",
        f"{blank}",
        f"[1]{blank}2",
        f"[[{blank},1]]",
        f'[{{{blank},"a":1}}]',
    ):
        with pytest.raises(InvalidJson):
            messages(wrong.encode())


def test_a_body_of_space_is_cut_piece_by_piece() -> None:
    """No piece is longer than the loop may be held for."""
    blank = b" " * (20 * PIECE)
    for body in (blank + b"[1]", b"[1]" + blank, b"[" + blank + b"1]", b"[1" + blank + b"]"):
        assert sum(1 for _ in in_pieces(body)) >= 20


ODD = {
    "floats that are written otherwise": b"[%b]" % b",".join([b"1.5e3"] * 2_000),
    "half an emoji": b'[%b,"\\ud83d"]' % b",".join([b"1"] * 4_000),
    "line breaks between numbers": b"[%b]" % b"\n,\n".join([b"1"] * 2_000),
    "a fault at the end": b"[%b,nul]" % b",".join([b'{"a":1}'] * 1_000),
    "no UTF-8": b"[%b]" % b",".join([b'"\xff"'] * 2_000),
    "nothing but commas": b"[%b]" % (b"," * 6_000),
}


@pytest.mark.parametrize("body", ODD.values(), ids=ODD)
def test_a_body_that_takes_long_to_cut_is_left_to_pieces(body: bytes) -> None:
    assert json_body.quickly(body) is None


@given(value=VALUES)
def test_what_is_found_quickly_is_what_is_found_in_pieces(value: object) -> None:
    for body in (json.dumps(value).encode(), json.dumps(value, separators=(",", ":")).encode()):
        found = json_body.quickly(body, may_be_empty=True)
        assert found is None or found == at_once(in_pieces(body, may_be_empty=True))


@pytest.mark.parametrize(
    ("text", "value"),
    [(b'{"a":[1.5,null]}', {"a": [1.5, None]}), (rb'{"a":"\ud83d"}', {"a": "\ud83d"}), (b" 1 ", 1)],
)
def test_a_short_text_is_read_with_half_an_emoji_in_it(text: bytes, value: object) -> None:
    assert json_body.value_of(text) == value


@pytest.mark.parametrize("text", [b"", b"{", b"NaN", b"1e999", b'"\xff"', b"[" * 100_000])
def test_what_is_no_json_has_no_value(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_body.value_of(text)


@pytest.mark.parametrize(
    "body",
    [
        b"[%b]" % (b'"' * (40 * PIECE)),
        b"[]" * (20 * PIECE),
        b'{"%b":' % (b"a" * (PIECE - 100)) * 40 + b"1" + b"}" * 40,
        b"[%b%b]" % (b"[" * 900, b" ]" * 900 * 40),
        b"[%b" % (b'{"a":[ ' * 400 + b"1" + b" ]}" * 400 + b",") * 40,
        b'["a"%b]' % ("é".encode() * (20 * PIECE)),
    ],
)
def test_what_has_no_comma_is_judged_in_pieces_too(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[int] = []
    fault_of = json_body.fault_of

    def counted(text: bytes) -> str | None:
        judged.append(len(text))
        return fault_of(text)

    monkeypatch.setattr(json_body, "fault_of", counted)
    with suppress(InvalidJson):
        at_once(in_pieces(body))
    assert max(judged, default=0) < 4 * PIECE
