"""Errors that are final for a client. What may pass by itself is retried and never seen as an error."""

from __future__ import annotations

import os
from collections.abc import Iterator


class ClientError(Exception):
    """The message is one line for a person."""


class NoSuchStream(ClientError):
    """404: there is no such stream."""


class StreamGone(ClientError):
    """410: the stream was deleted, or no longer holds what lies at this offset."""


class StreamClosed(ClientError):
    """Nothing can be appended any more: 409 with Stream-Closed, or 403 with it to a producer whose lease ran out."""


class RunEnded(StreamClosed):
    """The run that was to be recorded has ended already."""


class RunCancelled(ClientError):
    """A user or an operator has asked for the run to stop."""


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
    """The reason of an exception, as one line: the system's, such as "Connection refused", where it is behind it."""
    said = next(filter(None, map(_of_the_system, _causes(error))), "")
    return " ".join((said or str(error)).split()) or type(error).__name__


def _of_the_system(error: BaseException) -> str:
    if not isinstance(error, OSError):
        return ""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it comes from, the nearest first."""
    for _ in range(10):
        if error is None:
            return
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        yield error
        error = error.__cause__ or error.__context__
