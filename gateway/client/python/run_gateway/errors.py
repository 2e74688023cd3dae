"""Errors that are final for a client. What may pass by itself is retried and never seen as an error."""

from __future__ import annotations


class ClientError(Exception):
    """The message is one line for a person."""


class NoSuchStream(ClientError):
    """404: there is no such stream."""


class StreamGone(ClientError):
    """410: the stream was deleted, or no longer holds what lies at this offset."""


class StreamClosed(ClientError):
    """Nothing can be appended any more: 409 with Stream-Closed, or 403 with it to a producer whose lease ran out."""


class Fenced(ClientError):
    """Another producer has taken over this producer's id."""


class NotLetIn(ClientError):
    """401: the gateway asks for a credential, or for another one."""


class Refused(ClientError):
    """Any other answer that trying again would not change."""


class BadAnswer(ClientError):
    """The server answered something that the protocol does not allow."""


class GaveUp(ClientError):
    """The server could not be reached for too long; whether the last request took effect is unknown."""


def one_line(error: BaseException) -> str:
    """The text of an exception, as one line; the name of its class if it has none, as many network errors do."""
    return " ".join(str(error).split()) or type(error).__name__
