"""Where the log goes: to stderr, one line each, for people and collectors alike."""

from __future__ import annotations

import logging
import sys


def log_to_stderr(level: str) -> None:
    """What is at least of this level, from now on."""
    logging.basicConfig(
        stream=sys.stderr, level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # uvicorn tells of its own start and stop at INFO, in five lines that say what ours says in one.
    if level == "info":
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
