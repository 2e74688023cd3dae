"""What `emit` makes of a value: JSON on one line, or a refusal at the line where it stands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from run_gateway.address import checked, gateway_of, place_of
from run_gateway.events import text_of


@dataclass
class Step:
    at: datetime
    value: float | None


class Color(Enum):
    RED = "red"


class Model(BaseModel):
    name: str
    value: float | None = None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_json_is_kept_on_one_line(value: Any) -> None:
    text = text_of(value)
    assert json.loads(text) == value
    assert b"\n" not in text and b"\r" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), b'"2026-01-02T03:04:05+00:00"'),
        (date(2026, 1, 2), b'"2026-01-02"'),
        (UUID(int=1), b'"00000000-0000-0000-0000-000000000001"'),
        (Step(datetime(2026, 1, 2, tzinfo=UTC), None), b'{"at":"2026-01-02T00:00:00+00:00","value":null}'),
        (Color.RED, b'"red"'),
        ({"m": Model(name="a")}, b'{"m":{"name":"a","value":null}}'),
        ({1: 2**70, "\ud83d": [None]}, b'{"1":1180591620717411303424,"\\ud83d":[null]}'),
        ([datetime(2026, 1, 2, tzinfo=UTC), UUID(int=0), Color.RED, Step(datetime(2026, 1, 2, tzinfo=UTC), 1), 2**64],
         b'["2026-01-02T00:00:00+00:00","00000000-0000-0000-0000-000000000000","red",'
         b'{"at":"2026-01-02T00:00:00+00:00","value":1},18446744073709551616]'),
    ],
)  # fmt: skip
def test_what_orjson_takes_is_taken(value: object, text: bytes) -> None:
    assert text_of(value) == text


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        {"a": [float("-inf")]},
        Step(datetime(2026, 1, 1, tzinfo=UTC), float("nan")),
        Model(name="a", value=float("inf")),
    ],
)
def test_nan_is_no_json(value: object) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        text_of(value)


@pytest.mark.parametrize("value", [object(), {"a": {1, 2}}, [Decimal(1)], b"bytes", Model, 1j])
def test_what_is_no_json_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        text_of(value)


def test_a_default_makes_json_of_anything() -> None:
    assert text_of([Decimal("1.5"), {3}], lambda value: sorted(value) if isinstance(value, set) else str(value)) == (
        b'["1.5",[3]]'
    )


def test_addresses_are_what_they_name() -> None:
    place = place_of("https://host/below/runs/a%20b")
    assert place is not None and (place.base, place.stream) == ("https://host/below", "runs/a b")
    assert place_of("http://h:1/v1/stream/a/b") == ("http://h:1", "a/b")
    assert place_of("http://h:1/runs") is place_of("http://h:1/runs/") is place_of("http://h") is None
    assert (
        gateway_of("http://h:1/runs/") == gateway_of("http://h:1/runs/17") == gateway_of("http://h:1") == "http://h:1"
    )


@pytest.mark.parametrize("url", ["127.0.0.1:8080/runs/1", "localhost/runs/1", "ftp://h/runs/1", "http:///runs/1", ""])
def test_an_address_has_a_scheme_and_a_host(url: str) -> None:
    with pytest.raises(ValueError, match="http://"):
        checked(url)
    with pytest.raises(TypeError, match="an address is a str"):
        checked([url])
