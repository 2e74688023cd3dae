"""The stateful chat server of `tests.owner.chat` as a process."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path


class App:
    """A chat server as a process, which may be killed and begun anew on its port."""

    def __init__(self, journal: Path) -> None:
        self.port = 0
        self._journal = journal
        self._process: asyncio.subprocess.Process | None = None

    async def launch(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.owner.chat", str(self.port), str(self._journal),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None, "a pipe"
        self.port = int(await self._process.stdout.readline())

    @property
    def pid(self) -> int:
        assert self._process is not None, "launched"
        return self._process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "launched"
        self._process.send_signal(number)

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
