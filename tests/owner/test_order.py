"""The header between gateways: bound to one request, one life and the secret that all Machines share."""

from __future__ import annotations

import pytest

from gateway.owner.order import HEADER, Order, key_of, read, sign, without

KEY, OLD = key_of(b"secret"), key_of(b"older")
ORDER = Order(7, 41)
VALUE = sign(ORDER, "POST", b"/chat/x?y=1", KEY)


def test_an_order_is_read_by_who_has_the_secret() -> None:
    assert read([(b"host", b"x"), (HEADER, VALUE)], "POST", b"/chat/x?y=1", [OLD, KEY]) == ORDER


@pytest.mark.parametrize(
    ("value", "method", "target"),
    [
        (VALUE, "PUT", b"/chat/x?y=1"),
        (VALUE, "POST", b"/chat/x?y=2"),
        (VALUE.replace(b"v1.7.", b"v1.8."), "POST", b"/chat/x?y=1"),
        (VALUE.replace(b".41.", b".42."), "POST", b"/chat/x?y=1"),
        (VALUE[:-1], "POST", b"/chat/x?y=1"),
        (sign(ORDER, "POST", b"/chat/x?y=1", OLD), "POST", b"/chat/x?y=1"),
        (b"v1", "POST", b"/chat/x?y=1"),
        (b"v1.99999999999999999999.1." + b"0" * 64, "POST", b"/chat/x?y=1"),
    ],
)
def test_an_order_for_anything_else_is_none(value: bytes, method: str, target: bytes) -> None:
    assert read([(HEADER, value)], method, target, [KEY]) is None


def test_two_orders_are_none_and_both_are_taken_away() -> None:
    headers = [(HEADER, VALUE), (b"accept", b"*/*"), (HEADER, VALUE)]
    assert read(headers, "POST", b"/chat/x?y=1", [KEY]) is None
    assert without(headers) == [(b"accept", b"*/*")]
