"""One C client: started with arguments, told `mark`, `stats` or `stop`, answering each with a line of JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from loadtests.bench.processes import Failed, kill

LINE_LIMIT = 4 << 20


class Program:
    """A running client. Every wait has a time-out; what ends early or stays silent raises Failed."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self._process = process
        self._name = name

    @classmethod
    @asynccontextmanager
    async def start(cls, program: Path | Sequence[str], **options: object) -> AsyncIterator[Program]:
        """Runs for as long as the block lasts; it ends by itself when its stdin does."""
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        command = [str(program)] if isinstance(program, Path) else list(program)
        process = await asyncio.create_subprocess_exec(
            *command, *arguments, limit=LINE_LIMIT,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        client = cls(process, Path(command[-1]).name)
        try:
            yield client
        finally:
            await kill(process)

    async def line(self, patience: float) -> dict[str, Any]:
        """The next line that it prints."""
        assert self._process.stdout is not None and self._process.stderr is not None, "they are pipes"
        try:
            text = await asyncio.wait_for(self._process.stdout.readline(), patience)
        except TimeoutError:
            raise Failed(f"{self._name} said nothing for {patience:g} s") from None
        if not text:
            said = await self._process.stderr.read()
            raise Failed(f"{self._name}: {said.decode(errors='replace').strip()[-500:]}")
        found: dict[str, Any] = json.loads(text)
        return found

    async def ask(self, command: str, patience: float = 30.0) -> dict[str, Any]:
        """Sends a command and returns its line."""
        assert self._process.stdin is not None, "it is a pipe"
        try:
            self._process.stdin.write(f"{command}\n".encode())
            await self._process.stdin.drain()
        except ConnectionError:
            pass  # it has ended: the line that does not come says why
        return await self.line(patience)
