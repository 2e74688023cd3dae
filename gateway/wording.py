"""Exceptions of a library or the system, as they are told to people. Knows nothing of the house."""

from __future__ import annotations


def one_line(error: BaseException) -> str:
    """The text of an exception, as one line; the name of its class if it has none, as many network errors do."""
    return " ".join(str(error).split()) or type(error).__name__
