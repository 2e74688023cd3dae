"""All refusals of the gateway's one tree, in whichever room they are defined."""

from __future__ import annotations

from collections.abc import Iterator

import gateway.app  # noqa: F401  has every room loaded, and so every class
from gateway.protocol.errors import ProtocolError
from gateway.subscriptions.errors import Refusal


def refusals(root: type[ProtocolError] = ProtocolError) -> Iterator[type[ProtocolError]]:
    """Every class below `root`, but for those of Flue's runs, which are worded as Flue words them, and Refusal, whose
    type and words are its code's.
    """
    for error in root.__subclasses__():
        if error is not Refusal and not error.__module__.startswith("gateway.flue."):
            yield error
            yield from refusals(error)
