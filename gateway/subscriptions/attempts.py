"""Attempts to deliver a wake, as those see them who do not make them: `gateway.subscriptions.webhooks` does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Final

from gateway.subscriptions.records import Delivery
from gateway.subscriptions.signing import Keys

TIMEOUT: Final = 10.0  # seconds for the whole attempt


class Outcome(Enum):
    """The outcome of an attempt."""

    DONE = "done"  # the handler has done its work already
    TAKEN = "taken"  # the handler has the wake, and will call back
    FAILED = "failed"


Deliver = Callable[[Delivery, Keys], Awaitable[tuple[Outcome, str]]]
"""Makes an attempt. Returns its outcome and, for the log, the reason of a failure in words."""
