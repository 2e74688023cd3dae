"""Node for the tests that need it: find it, install a folder's locked packages, run a script and read its lines.

The policy of all those tests in one place: on a machine without Node or without a way to download the packages they
are skipped and say why; in CI that skip is a failure. A lock file that does not fit, or a package that does not
install, is a failure everywhere. Knows nothing of the gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest

MINIMUM = (20, 19)  # what vitest 4 and vite 8 ask for; the suite itself would take 18
# npm's codes for "nobody answered": no address, no route, no server, or --offline with a cold cache.
NO_DOWNLOAD = {
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ECONNRESET",
    "EHOSTUNREACH",
    "ENETUNREACH",
    "ENOTCACHED",
    "ENOTFOUND",
    "ERR_SOCKET_TIMEOUT",
    "ETIMEDOUT",
}


def unavailable(reason: str) -> NoReturn:
    """Skip the test for this reason; fail it where CI is set, because there nothing may go untested."""
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(f"CI must run this test, but {reason}", pytrace=False)
    pytest.skip(reason)


def require_node() -> str:
    """The path of a Node that is new enough for these tests, together with npm; else the test is skipped."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        unavailable(f"Node.js {_dotted(MINIMUM)} or newer with npm is not installed")
    version = _version(node)
    if version < MINIMUM:
        unavailable(f"Node.js {_dotted(MINIMUM)} or newer is needed, and this one is {_dotted(version)}")
    return node


def npm_ci(folder: Path) -> Path:
    """Installs what folder's package-lock.json lists into folder/node_modules, once per lock file; returns that."""
    require_node()
    problem = _install(folder)
    if problem is not None:
        unavailable(problem)
    return folder / "node_modules"


class Script:
    """A running Node script: what it has printed so far, one JSON value a line.

    `lines` grows as the script prints; `until` waits for a condition over it; `end` waits for the exit.
    """

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self.lines: list[Any] = []
        self._process = process
        self._name = name
        self._grown = asyncio.Condition()
        self._stderr = bytearray()
        self._ended = False
        self._readers = [asyncio.create_task(self._read_lines()), asyncio.create_task(self._read_stderr())]

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls, path: Path, *arguments: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Script]:
        """Runs the script for as long as the block lasts; one that still runs at its end is killed."""
        process = await asyncio.create_subprocess_exec(
            require_node(),
            str(path),
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **(env or {})},
            limit=64 * 1024 * 1024,  # one line may carry a whole large event
        )
        script = cls(process, path.name)
        try:
            yield script
        finally:
            await script._stop()

    async def until(self, condition: Callable[[list[Any]], bool], timeout: float = 60) -> None:
        """Waits until the condition holds for the lines printed so far; fails if the script ends or time is up."""
        try:
            async with asyncio.timeout(timeout), self._grown:
                await self._grown.wait_for(lambda: self._ended or condition(self.lines))
        except TimeoutError:
            self._fail(f"did not come to what the test waits for in {timeout} s")
        if not condition(self.lines):
            self._fail("ended before what the test waits for")

    async def end(self, timeout: float = 120) -> list[Any]:
        """Waits until the script has ended by itself, with exit code 0; returns all that it printed."""
        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(*self._readers)
                code = await self._process.wait()
        except TimeoutError:
            self._fail(f"did not end in {timeout} s")
        if code != 0:
            self._fail(f"ended with exit code {code}")
        return self.lines

    async def say(self, value: object) -> None:
        """Writes one line of JSON to the script's standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value).encode() + b"\n")
        await self._process.stdin.drain()

    def hush(self) -> None:
        """Ends the script's standard input: nothing more will be said."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def _read_lines(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            async with self._grown:
                self.lines.append(json.loads(line))
                self._grown.notify_all()
        async with self._grown:
            self._ended = True
            self._grown.notify_all()

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        while piece := await self._process.stderr.read(65536):
            self._stderr += piece

    async def _stop(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        self.hush()
        await asyncio.gather(*self._readers)

    def _fail(self, what: str) -> NoReturn:
        printed = "\n".join(json.dumps(line) for line in self.lines[-20:])
        complaint = self._stderr.decode(errors="replace")[-4000:]
        message = f"{self._name} {what}\n-- last lines printed\n{printed}\n-- stderr\n{complaint}"
        pytest.fail(message, pytrace=False)


@functools.cache
def _version(node: str) -> tuple[int, ...]:
    printed = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(number) for number in re.findall(r"\d+", printed)[:3])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


@functools.cache
def _install(folder: Path) -> str | None:
    """None when the packages are in place, else why they cannot be had here; asked once per session."""
    stamp = folder / "node_modules" / f".installed-{_fingerprint(folder)}"
    with _lock(folder):
        if stamp.exists():
            return None
        npm = shutil.which("npm")
        assert npm is not None
        done = subprocess.run(
            # Nothing here needs an install script, so none is run.
            [
                npm,
                "ci",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--prefer-offline",
                "--fetch-retries=1",
                "--fetch-retry-mintimeout=1000",
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if done.returncode == 0:
            stamp.touch()
            return None
    codes = set(re.findall(r"^npm (?:error|ERR!) code (\S+)", done.stderr, re.MULTILINE))
    if codes & NO_DOWNLOAD:
        return f"npm could not download the packages of {folder.name}/package-lock.json ({', '.join(codes)})"
    pytest.fail(f"npm ci failed in {folder}:\n{done.stderr}", pytrace=False)


def _fingerprint(folder: Path) -> str:
    return hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()[:16]


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Two test runs in one checkout install one after the other: npm ci begins by deleting node_modules."""
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    with open(Path(tempfile.gettempdir()) / f"npm-ci-{os.getuid()}-{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
