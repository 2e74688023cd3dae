"""The manuals' sessions, typed as they stand there, in order: each command prints what it says."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import pytest

from tests.machines import Machine, free_port
from tests.manual import ROOT, manual, manuals

ADDRESS = "http://127.0.0.1:8080"
WORKER = "http://127.0.0.1:9000"
# As in the shells of those who type this: a gateway that is this one, and a curl that draws no progress.
SHELL = (
    'curl() { command curl -sS "$@"; }; '
    f'run-gateway() {{ {shlex.quote(sys.executable)} -m gateway "$@" --url "$G"; }}; '
)
# What is another each time: times and what follows from them, ids of wakes, and tokens.
VOLATILE = re.compile(
    r'\d{4}-\d\d-\d\dT[\d:.]+Z|(?<="streamCursor":)"\d+"|(?<="durationMs":)\d+|(?<="ts": )\d+|(?<="expiresAt":)\d+'
    r'|(?<=")(w_|eyJ|rgt_)[^"]*'
)
ROOMS = ["", "runs", "subscriptions", "auth"]


class Step(NamedTuple):
    """A command, and the lines that it is said to print. `…` stands for anything."""

    command: str
    printed: list[str]


def steps(text: str) -> Iterator[Step]:
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command = re.match(r"(.*\\\n)*.*\n", step)
            assert command is not None
            yield Step(command[0], [line for line in step[command.end() :].splitlines() if line.strip("…")])


class Terminal:
    """Runs commands one after the other; one that follows a stream goes on beside the others, in another terminal.

    `shown` has what was printed or delivered, out of which a reader copies what a `…` in an assignment stands for.
    """

    def __init__(self, database_url: str) -> None:
        self.shown = ""
        self.machine: Machine | None = None
        self._database_url = database_url
        self._variables = dict(os.environ)
        self._followed: list[tuple[Step, asyncio.Task[str]]] = []
        self._stack = AsyncExitStack()

    async def serve(self, **env: str) -> None:
        """`run-gateway serve`, at the port that G and the commands name."""
        self.machine = await self._stack.enter_async_context(Machine.start(self._database_url, env=env))
        self._variables["G"] = self.machine.url

    async def type(self, step: Step) -> None:
        if step.command.endswith("run-gateway serve\n"):
            said = await self._environment(step.command.replace("run-gateway serve", "env -0"))
            await self.serve(**{name: said[name] for name in re.findall(r"(\w+)=", step.command)})
        elif re.fullmatch(r"(export )?(\w+=(\$\([^)]*\)|\S)+\s*)+(#.*)?\n", step.command):
            await self._assign(step.command)
        elif step.command.startswith("curl -N ") or " run-gateway tail " in step.command:
            caught_up = asyncio.Event()
            self._followed.append((step, asyncio.create_task(self._run(step.command, caught_up))))
            if step.command.startswith("curl"):
                await caught_up.wait()
        else:
            printed = await self._run(step.command)
            self.shown += printed
            compare(step, printed)

    async def close(self) -> None:
        """Waits for what is followed still: it ends with its run."""
        if self._followed:
            await self._run("curl -X POST $G/runs/run-1 -H 'stream-closed: true' -H \"authorization: Bearer $AGENT\"\n")
        for step, running in self._followed:
            compare(step, await running)
        await self._stack.aclose()

    async def _assign(self, command: str) -> None:
        """A value that ends in `…` is what was shown last that begins so."""
        for cut in re.findall(r"=(\S+)…", command):
            (whole,) = re.findall(rf"{re.escape(cut)[:2]}[\w.\-]+", self.shown.replace("\n", " "))[-1:]
            command = command.replace(f"{cut}…", whole)
        self._variables |= await self._environment(f"set -a; {command}env -0")

    async def _environment(self, command: str) -> dict[str, str]:
        return dict(pair.split("=", 1) for pair in (await self._run(command)).split("\0") if "=" in pair)

    async def _run(self, command: str, caught_up: asyncio.Event | None = None) -> str:
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", SHELL + self._placed(command), stdout=asyncio.subprocess.PIPE, env=self._variables
        )
        assert process.stdout is not None
        printed = b""
        async for line in process.stdout:
            printed += line
            if caught_up is not None and b"upToDate" in line:
                caught_up.set()
        assert await process.wait() == 0, command
        return printed.decode().replace("\r", "")

    def _placed(self, command: str) -> str:
        return command if self.machine is None else command.replace(ADDRESS, self.machine.url)


def compare(step: Step, printed: str) -> None:
    """Every line that is shown was printed, in this order; of a response's head the manual shows some lines."""
    if not step.printed:
        assert '"error"' not in printed, step.command
    lines = iter(VOLATILE.sub("~", printed).splitlines())
    for shown in step.printed:
        pattern = ".*".join(map(re.escape, VOLATILE.sub("~", shown).split("…")))
        assert any(re.fullmatch(pattern, line) for line in lines), f"{step.command}printed {printed}and not {shown}"


@asynccontextmanager
async def worker(port: int) -> AsyncIterator[asyncio.Queue[str]]:
    """What the webhook at this port is sent; it takes every wake."""
    bodies: asyncio.Queue[str] = asyncio.Queue()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        assert length is not None
        bodies.put_nowait((await reader.readexactly(int(length[1]))).decode())
        writer.write(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", port):
        yield bodies


def placed(step: Step, url: str, webhook: str) -> Step:
    """The step with the addresses of this test in it."""

    def place(text: str) -> str:
        return text.replace(ADDRESS, url).replace(WORKER, webhook)

    return Step(place(step.command), [place(line) for line in step.printed])


@pytest.mark.parametrize("room", ROOMS)
async def test_each_command_prints_what_the_manual_says(database_url: str, room: str) -> None:
    if shutil.which("curl") is None:
        assert "CI" not in os.environ, "CI installs curl"
        pytest.skip("curl is not installed")
    text, port = manual(room), free_port()
    typed = list(steps(text))
    assert len(typed) > 5
    terminal = Terminal(database_url)
    async with asyncio.timeout(120), worker(port) as wakes:
        if not any("run-gateway serve" in step.command for step in typed):
            await terminal.serve()
        for step in typed:
            if "CALLBACK_TOKEN=" in step.command:
                wake = await wakes.get()
                (shown,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
                assert terminal.machine is not None
                url = terminal.machine.url
                compare(placed(Step("the wake", [shown.strip()]), url, ""), wake)
                said: dict[str, Any] = json.loads(wake)
                terminal.shown += f"{said['wake_id']} {said['callback_token']} "
            url = "" if terminal.machine is None else terminal.machine.url
            await terminal.type(placed(step, url, f"http://127.0.0.1:{port}") if url else step)
        await terminal.close()


def test_every_session_is_typed() -> None:
    """A manual with a console block that is not among ROOMS would be typed by nobody."""
    with_sessions = [path for path in manuals() if "```console" in path.read_text()]
    assert with_sessions == [ROOT / ("gateway" if room else "") / room / "README.md" for room in sorted(ROOMS)]
