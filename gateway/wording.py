"""How an exception of a library or the system is told to people. Knows nothing of the house."""

from __future__ import annotations


def one_line(error: BaseException) -> str:
    """What an exception says, as one line; the name of its class if it says nothing, as many network errors do."""
    return " ".join(str(error).split()) or type(error).__name__
