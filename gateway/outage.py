"""Trouble that lasts is told once: a line in the log when it begins, and one when it is over.

Whatever tries again every second would otherwise fill the log while the database is away. Knows nothing of the house.
"""

from __future__ import annotations

import logging


class Outage:
    """Something that cannot be done at times. `begins` and `ends` are what the log says, at warning and at info."""

    def __init__(self, logger: logging.Logger, begins: str, ends: str) -> None:
        self.lasts = False
        self._logger = logger
        self._begins = begins
        self._ends = ends

    def begin(self, *details: object) -> None:
        """It could not be done. `details` are the arguments of `begins`."""
        if not self.lasts:
            self._logger.warning(self._begins, *details)
        self.lasts = True

    def end(self) -> None:
        """It could be done."""
        if self.lasts:
            self._logger.info(self._ends)
        self.lasts = False
