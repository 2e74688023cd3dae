"""Why a subscription request is refused: the codes of §6 and §7, each with its status and its words.

Knows nothing of HTTP beyond the number; the door renders it as every refusal.
"""

from __future__ import annotations

from enum import Enum

from gateway.protocol.errors import ProtocolError, Unavailable


class Code(Enum):
    """The codes that a client sees in `error.code`; the value is the status."""

    def __init__(self, number: int, meaning: str) -> None:
        self.number = number
        self.meaning = meaning

    INVALID_REQUEST = (400, "The request is malformed.")
    WEBHOOK_URL_REJECTED = (400, "webhook.url must not be called from here (§12.8).")
    TOKEN_INVALID = (401, "The bearer token is missing, malformed, or not of this subscription.")
    TOKEN_EXPIRED = (401, "The bearer token has expired.")
    SUBSCRIPTION_NOT_FOUND = (404, "There is no such subscription.")
    SUBSCRIPTION_ALREADY_EXISTS = (409, "The subscription exists with a different configuration.")
    FENCED = (409, "The wake is no longer the current one, or its lease has expired (§7.3).")
    WAKE_STREAM_REJECTED = (409, "What is at wake_stream takes no wakes: it is not JSON, closed, or deleted for good.")
    TOO_MANY_SUBSCRIPTIONS = (409, "The tenant has as many subscriptions as it may: delete some.")
    TOO_MANY_STREAMS = (409, "The subscription would have more explicit streams than it may: use a pattern.")
    TOO_MANY_CHANGES = (429, "The tenant has changed as many subscriptions as it may in a second.")
    ALREADY_CLAIMED = (409, "Another worker holds the lease.")
    NO_PENDING_WORK = (409, "No linked stream has events after its acked offset.")
    INVALID_OFFSET = (409, "An ack is not for a linked stream, goes back, or lies beyond the tail.")


class Refusal(ProtocolError):
    """The request is refused."""

    # A client of §6 looks for `error.code`, any other for `error.type`. `more` are further fields of the error.

    def __init__(self, code: Code, message: str, **more: str | int) -> None:
        super().__init__()
        self.code = code
        self.status, self.type = code.number, code.name.lower()
        self.more = {"code": code.name, **more}
        self.args = (message,)

    @property
    def message(self) -> str:
        return str(self)


class LinkingGoesOn(Unavailable):
    """The subscription exists, and is being linked to very many streams: repeat the request to learn when it is."""

    type = "linking_goes_on"


def invalid(message: str) -> Refusal:
    """A request that cannot be read."""
    return Refusal(Code.INVALID_REQUEST, message)
