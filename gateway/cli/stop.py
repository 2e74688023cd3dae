"""What SIGTERM and SIGINT mean, from the first moment of a process to its last.

While it begins there is only work to abandon. Once it serves, the first signal drains, and a second SIGINT waits
for nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """The end of this process. To be made inside the task that a signal abandons before anything serves."""

    def __init__(self) -> None:
        self.asked = False
        self._task = asyncio.current_task()
        self._drain: Callable[[], None] | None = None
        self._force: Callable[[], None] | None = None

    def serving(self, *, drain: Callable[[], None], force: Callable[[], None]) -> None:
        """From now on there is something to drain, and to force when somebody has lost patience."""
        self._drain, self._force = drain, force

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take both signals until the very end, the stop of an embedded database included.

        The CancelledError of work that was abandoned ends here.
        """
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.signal, number)
        try:
            yield
        except asyncio.CancelledError:
            if not self.asked:
                raise
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    def signal(self, number: signal.Signals) -> None:
        """Does what this signal means now."""
        first, self.asked = not self.asked, True
        if self._drain is None or self._force is None:
            if first and self._task is not None:
                self._task.cancel()
        elif first:
            self._drain()
        elif number == signal.SIGINT:
            self._force()
