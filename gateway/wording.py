"""Words for people, and from them: exceptions as text, and times with their units. Knows nothing of the house."""

from __future__ import annotations

import re
from typing import Final

DURATIONS: Final = {"ms": 0.001, "s": 1, "min": 60, "m": 60, "h": 3600, "d": 86_400}
"""Seconds of each unit that may follow a number."""
DURATION: Final = re.compile(rf"(\d+(?:\.\d+)?) ?({'|'.join(DURATIONS)})")


def one_line(error: BaseException) -> str:
    """The text of an exception, as one line; the name of its class if it has none, as many network errors do."""
    return " ".join(str(error).split()) or type(error).__name__


def seconds_of(text: str) -> float:
    """The seconds that `90`, `90s` or `7d` means. Raises ValueError."""
    given = DURATION.fullmatch(text.strip())
    return float(text) if given is None else float(given[1]) * DURATIONS[given[2]]
