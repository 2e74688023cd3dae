"""Trouble that lasts, or that comes back, without filling the log. Knows nothing of the house.

What lasts is told once: a line in the log when it begins, and one when it is over. What tries again every second would
otherwise fill the log while the database is away. What comes back is told at most once a second.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

SELDOM: Final = 1.0  # seconds between two lines of the same kind


class Outage:
    """An outage of something. `begins` and `ends` are what the log says, at warning and at info.

    `within`: a larger outage, which explains this one. While that lasts this one is not told, nor is a first failure,
    which the next moment explains: so one outage of the database is one line, whatever waits for it.
    """

    def __init__(self, logger: logging.Logger, begins: str, ends: str, within: Outage | None = None) -> None:
        self.lasts = False
        self._told = False
        self._logger = logger
        self._begins = begins
        self._ends = ends
        self._within = within

    def begin(self, *details: object) -> None:
        """Begins the outage, or goes on with it. `details` are the arguments of `begins`."""
        first, self.lasts = not self.lasts, True
        if self._told or (self._within is not None and (first or self._within.lasts)):
            return
        self._told = True
        self._logger.warning(self._begins, *details)

    def end(self) -> None:
        """Ends the outage, if there is one."""
        if self._told:
            self._logger.info(self._ends)
        self.lasts = self._told = False


class SeldomLogger:
    """A logger for exceptions that may come with every frame: of one kind, at most one in SELDOM seconds is logged.

    `clock` gives monotonic seconds.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        self._logger = logger
        self._clock = clock
        self._kinds: dict[str, tuple[float, int]] = {}  # by message: silent until, and how many have come since

    def exception(self, message: str, *details: object) -> None:
        """Logs the exception that is being handled, with its traceback. `details` are the arguments of `message`."""
        self.count += 1
        now = self._clock()
        until, untold = self._kinds.get(message, (0.0, 0))
        if now < until:
            self._kinds[message] = until, untold + 1
            return
        self._kinds[message] = now + SELDOM, 0
        more = f" ({untold} more since the last such line.)" if untold else ""
        self._logger.exception(message + more, *details)
