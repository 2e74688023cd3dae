"""All refusals of the gateway's one tree, in whichever room they are defined."""

from __future__ import annotations

from collections.abc import Iterator

import gateway.app  # noqa: F401  has every room loaded, and so every class
from gateway.protocol.errors import ProtocolError


def refusals(root: type[ProtocolError] = ProtocolError) -> Iterator[type[ProtocolError]]:
    """Every class below `root`, but for those of Flue's runs, which are worded as Flue words them."""
    for error in root.__subclasses__():
        if not error.__module__.startswith("gateway.flue."):
            yield error
            yield from refusals(error)
