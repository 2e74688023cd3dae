"""Workers that share a port, asking one another for metrics: a scrape reaches one of them, which answers for all.

Each listens on a socket of its own, in a folder that the supervisor has made for them. A worker that has died or hangs
is left out. Its replacement takes its number, and counts from zero, as any new process does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from prometheus_client import Metric as Family

from gateway.metrics.collector import load
from gateway.tasks import turn

PATIENCE: Final = 1.0  # seconds that a sibling has to answer; by default Prometheus gives a scrape ten
SUFFIX: Final = ".metrics"


class Siblings:
    """Worker `number` of those who meet in `folder`."""

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self.folder = folder
        self._server: asyncio.Server | None = None

    async def open(self, answer: Callable[[], bytes]) -> None:
        """Begins to answer each connection with what `answer` returns at that moment."""

        def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer())
            writer.close()  # once it is all written

        path = self._path(self.number)
        path.unlink(missing_ok=True)  # its predecessor's, who had no time to
        self._server = await asyncio.start_unix_server(tell, path)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._path(self.number).unlink(missing_ok=True)

    async def others(self) -> dict[str, list[Family]]:
        """The families of all others who answer, by their number."""
        numbers = [int(path.stem) for path in self.folder.glob(f"*{SUFFIX}")]
        asked = [number for number in numbers if number != self.number]
        answers = await asyncio.gather(*map(self._ask, asked))
        return {str(number): answer for number, answer in zip(asked, answers, strict=True) if answer is not None}

    async def _ask(self, number: int) -> list[Family] | None:
        with suppress(OSError, TimeoutError, ValueError):  # dead, stuck, or cut off in the middle: not there
            async with asyncio.timeout(PATIENCE):
                reader, writer = await asyncio.open_unix_connection(self._path(number))
                try:
                    data = await reader.read()
                    await turn()  # all of them answer at one time
                    return load(data)
                finally:
                    writer.close()
        return None

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}{SUFFIX}"
