"""Bodies are looked at in pieces: what a row asks for is found in a large one as in a small one."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol import json_body
from gateway.protocol.errors import InvalidJson
from gateway.protocol.json_body import at_once
from gateway.relay import bodies
from gateway.relay.bodies import AT_ONCE, altered_in_pieces, value_in_pieces

LARGE = ["x" * 1000] * 1000
JSON = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(), lambda each: st.lists(each, max_size=3))


@given(st.dictionaries(st.text(max_size=9), JSON, max_size=9))
def test_a_large_body_is_read_as_a_small_one(value: dict[str, Any]) -> None:
    assert at_once(value_in_pieces(json.dumps(value).encode())) == value
    large = json.dumps({"a large member": LARGE, **value}).encode()
    assert at_once(value_in_pieces(large)) == {name: each for name, each in value.items() if name != "a large member"}


@pytest.mark.parametrize("more", [{}, {"large": LARGE}], ids=["small", "large"])
def test_half_an_emoji_in_a_body_hides_nothing(more: dict[str, Any]) -> None:
    body = json.dumps({**more, "text": "\ud83d", "thread": {"text": "\ud83d", "n": 7, "x": 1.5}}).encode()
    value = at_once(value_in_pieces(body))
    assert (value["text"], value["thread"]) == ("\ud83d", {"text": "\ud83d", "n": 7, "x": 1.5})


@given(st.dictionaries(st.text(max_size=9), JSON, max_size=9), st.lists(st.text(max_size=9), max_size=3))
def test_members_are_taken_out(value: dict[str, Any], names: list[str]) -> None:
    left = orjson.loads(at_once(altered_in_pieces(json.dumps(value).encode(), names, {})))
    assert left == {name: each for name, each in value.items() if name not in names}


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"id":1', b"[" + b"1," * AT_ONCE + b"1]", b'{"a":' + b"[" * AT_ONCE, b'"' + b"x" * AT_ONCE + b'"'],
)
def test_what_is_no_object_holds_nothing(body: bytes) -> None:
    assert at_once(value_in_pieces(body)) is None


def test_an_object_of_too_many_members_holds_nothing() -> None:
    body = json.dumps({f"name {number}": "x" * 200 for number in range(2_000)}).encode()
    assert at_once(value_in_pieces(body)) is None
    with pytest.raises(InvalidJson):
        at_once(altered_in_pieces(b"[1]", ["a"], {}))


def test_no_large_piece_is_parsed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loads, sizes = orjson.loads, []

    def counted(text: bytes) -> Any:
        sizes.append(len(text))
        return loads(text)

    for module in (bodies, json_body):
        monkeypatch.setattr(module.orjson, "loads", counted)
    body = b'{"id":"c1","messages":[' + b"{}," * (3 << 20) + b"{}]}"
    assert at_once(value_in_pieces(body)) == {"id": "c1"}
    at_once(altered_in_pieces(body, ["id"], {}))
    assert max(sizes) <= 2 * AT_ONCE


def test_what_a_row_sets_stands_in_the_place_of_what_was_there() -> None:
    body = b'{"a": 1.50, "b" : "x", "c": null}'
    assert at_once(altered_in_pieces(body, ["c"], {"b": True, "d": "y"})) == b'{"a":1.50,"b":true,"d":"y"}'
