"""The README's sessions with curl, typed as they stand there: each command prints what it says."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.machines import Machine

README = Path(__file__).parent.parent / "README.md"
ADDRESS = "http://127.0.0.1:8080"
QUIET = 'curl() { command curl -sS "$@"; }; '
# What is another each time: times and what follows from them.
VOLATILE = re.compile(r'\d{4}-\d\d-\d\dT[\d:.]+Z|(?<="streamCursor":)"\d+"|(?<="durationMs":)\d+')


class Step(NamedTuple):
    """A command, and the lines that it is said to print. `…` stands for anything."""

    command: str
    printed: list[str]


def steps(section: str, url: str) -> Iterator[Step]:
    text = README.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0].replace(ADDRESS, url)
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command = re.match(r"(.*\\\n)*.*\n", step)
            assert command is not None
            yield Step(command[0], [line for line in step[command.end() :].splitlines() if line.strip("…")])


class Terminal:
    """Runs commands one after the other; one that follows a stream goes on beside the others, in another terminal."""

    def __init__(self) -> None:
        self._variables = dict(os.environ)
        self._followed: list[tuple[Step, asyncio.Task[str]]] = []

    async def type(self, step: Step) -> None:
        if assignment := re.fullmatch(r"(\w+)=(\S+)\n", step.command):
            self._variables[assignment[1]] = assignment[2]
        elif step.command.startswith("curl -N "):
            caught_up = asyncio.Event()
            self._followed.append((step, asyncio.create_task(self._run(step.command, caught_up))))
            await caught_up.wait()
        else:
            compare(step, await self._run(step.command))

    async def close(self) -> None:
        for step, running in self._followed:
            compare(step, await running)

    async def _run(self, command: str, caught_up: asyncio.Event | None = None) -> str:
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", QUIET + command, stdout=asyncio.subprocess.PIPE, env=self._variables
        )
        assert process.stdout is not None
        printed = b""
        async for line in process.stdout:
            printed += line
            if caught_up is not None and b"upToDate" in line:
                caught_up.set()
        assert await process.wait() == 0, command
        return printed.decode().replace("\r", "")


def compare(step: Step, printed: str) -> None:
    """Every line that is shown was printed, in this order; of a response's head the README shows some lines."""
    if not step.printed:
        assert '"error"' not in printed, step.command
    lines = iter(VOLATILE.sub("~", printed).splitlines())
    for shown in step.printed:
        pattern = ".*".join(map(re.escape, VOLATILE.sub("~", shown).split("…")))
        assert any(re.fullmatch(pattern, line) for line in lines), f"{step.command}printed {printed}and not {shown}"


@pytest.mark.parametrize("section", ["A first session", "Runs"])
async def test_each_command_prints_what_the_readme_says(database_url: str, section: str) -> None:
    if shutil.which("curl") is None:
        assert "CI" not in os.environ, "CI installs curl"
        pytest.skip("curl is not installed")
    async with Machine.start(database_url) as machine, asyncio.timeout(120):
        typed = list(steps(section, machine.url))
        assert len(typed) > 9
        terminal = Terminal()
        await terminal.type(Step(f"G={machine.url}\n", []))
        for step in typed:
            await terminal.type(step)
        await terminal.close()
