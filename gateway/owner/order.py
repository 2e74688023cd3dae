"""The header of a request that one gateway sends to the owner's: it names the life, and proves that a gateway wrote it.

Pure. It is bound to the request's method and target and to one life of one Machine, and it is worth nothing after that.
There is no time in it: clocks of Machines may differ.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.asgi import Headers

HEADER: Final = b"run-gateway-owner"
"""In a request: an order. In an answer 421: that a gateway says so, and not an application."""

_FORM: Final = re.compile(rb"v1\.(\d{1,19})\.(\d{1,19})\.([0-9a-f]{64})")
_PURPOSE: Final = b"run-gateway owner v1"


@dataclass(frozen=True, slots=True)
class Order:
    """The order to answer as `life`, the owner since `epoch`; 0: to take the conversation, if nobody owns it."""

    life: int
    epoch: int


def key_of(secret: bytes) -> bytes:
    """The key of orders, of a secret that all Machines share."""
    return hmac.digest(secret, _PURPOSE, "sha256")


def sign(order: Order, method: str, target: bytes, key: bytes) -> bytes:
    """The header's value."""
    return b"v1.%d.%d.%b" % (order.life, order.epoch, _mark(order, method, target, key))


def read(headers: Headers, method: str, target: bytes, keys: Sequence[bytes]) -> Order | None:
    """The order in a request's headers; None: there is none, or none by these keys for this very request."""
    values = [value for name, value in headers if name == HEADER]
    form = _FORM.fullmatch(values[0]) if len(values) == 1 else None
    if form is None:
        return None
    order = Order(int(form[1]), int(form[2]))
    right = any(hmac.compare_digest(form[3], _mark(order, method, target, key)) for key in keys)
    return order if right else None


def without(headers: Headers) -> Headers:
    """Headers without this one."""
    return [header for header in headers if header[0] != HEADER]


def _mark(order: Order, method: str, target: bytes, key: bytes) -> bytes:
    text = b"%d %d %b %b" % (order.life, order.epoch, method.encode(), target)
    return hmac.digest(key, text, "sha256").hex().encode()
