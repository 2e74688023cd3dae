"""Shows how far a command has come, on a terminal's last line, for work that takes longer than a moment."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TextIO

AFTER: Final = 2.0  # seconds: what is done sooner tells of no progress
_BETWEEN: Final = 0.2  # seconds between two looks of the line
_CLEAR: Final = "\r\x1b[K"


class Progress:
    """Counts what is done. `unit` names what is counted; `whole`: how much there is, where that is known."""

    def __init__(self, unit: str, out: TextIO | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.unit = unit
        self.whole: int | None = None
        self._out = out
        self._clock = clock
        self._began = self._shown = clock()
        self._done = 0
        self._there = False

    def add(self, done: int) -> None:
        """So much more is done."""
        self._done += done
        if self.whole is not None and self._done >= self.whole:
            self.end()
            return
        now = self._clock()
        if self._out is not None and now >= self._began + AFTER and now >= self._shown + _BETWEEN:
            self._shown, self._there = now, True
            self._out.write(_CLEAR + self._line(now - self._began))
            self._out.flush()

    @asynccontextmanager
    async def ticking(self, done: int = 0) -> AsyncIterator[None]:
        """Adds so much each second while the block runs: by nothing it is told that a long step goes on."""

        async def tick() -> None:
            while True:
                await asyncio.sleep(1)
                self.add(done)

        ticking = asyncio.create_task(tick())
        try:
            yield
        finally:
            ticking.cancel()

    def end(self) -> None:
        """Takes the line away."""
        if self._there and self._out is not None:
            self._out.write(_CLEAR)
            self._out.flush()
        self._there = False

    def _line(self, seconds: float) -> str:
        rate = self._done / seconds
        if self.whole is None:
            return f"{self._done:,} {self.unit}, {rate:,.0f}/s"
        if not self._done:
            return f"0 of {self.whole:,} {self.unit}, {_span(seconds)} so far"
        left = (self.whole - self._done) / rate
        return f"{self._done:,} of {self.whole:,} {self.unit}, {rate:,.0f}/s, {_span(left)} left"


@contextmanager
def progress(unit: str, *, beside: bool = False) -> Iterator[Progress]:
    """A line on stderr while the block runs, if that is a terminal.

    `beside`: the command also prints what it does, so that there is a line only where stdout is no terminal.
    """
    shown = sys.stderr.isatty() and not (beside and sys.stdout.isatty())
    told = Progress(unit, sys.stderr if shown else None)
    try:
        yield told
    finally:
        told.end()


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
