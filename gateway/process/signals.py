"""SIGTERM and SIGINT, from the first moment of a process to its last; and SIGHUP, where keys are in a file.

While a process starts, a signal cancels what it does. Once it serves, the first signal drains, and a second SIGINT ends
it immediately. SIGHUP has the file read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """The orders to stop this process. Made inside the task that a signal cancels before anything serves."""

    def __init__(self, *, hangup: bool = False) -> None:
        self.asked = False
        self._signals = (*SIGNALS, signal.SIGHUP) if hangup else SIGNALS
        self._read_again: Callable[[], None] | None = None
        self._task = asyncio.current_task()
        self._drain: Callable[[], None] | None = None
        self._force: Callable[[], None] | None = None

    def serving(self, *, drain: Callable[[], None], force: Callable[[], None], read_again: Callable[[], None]) -> None:
        """Changes what signals mean: from now on one drains, a second SIGINT forces, and SIGHUP reads again."""
        self._drain, self._force, self._read_again = drain, force, read_again

    def hang_up(self) -> None:
        """Takes a SIGHUP: before anything serves, it means nothing, for the file has not been read yet."""
        if self._read_again is not None:
            self._read_again()

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Takes the signals until the very end, the stop of an embedded database included.

        The CancelledError of work that was abandoned ends here.
        """
        loop = asyncio.get_running_loop()
        for number in self._signals:
            loop.add_signal_handler(number, self.signal, number)
        try:
            yield
        except asyncio.CancelledError:
            if not self.asked:
                raise
        finally:
            for number in self._signals:
                loop.remove_signal_handler(number)

    def signal(self, number: signal.Signals) -> None:
        """Does what this signal means now."""
        if number not in SIGNALS:
            self.hang_up()
            return
        first, self.asked = not self.asked, True
        if self._drain is None or self._force is None:
            if first and self._task is not None:
                self._task.cancel()
        elif first:
            self._drain()
        elif number == signal.SIGINT:
            self._force()
