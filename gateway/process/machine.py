"""Another Machine as a child process: begun, killed and ended like the real one that it is.

For `run-gateway demo`, and for tests of everything that only real processes can show.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Mapping
from typing import Protocol

from gateway.settings import Settings, variable

READY = re.compile(r"^Listening on (http://\S+)\n", re.MULTILINE)
START_PATIENCE = 60.0
STOP_PATIENCE = 30.0

# A child must not outlive a parent that was killed. Asked for in the child itself: between fork and exec,
# Python code is not safe where there are threads.
_CHILD = """
import ctypes, runpy, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


class Process(Protocol):
    """An `asyncio.subprocess.Process`, as far as a Machine needs one."""

    pid: int
    stdout: asyncio.StreamReader | None

    @property
    def returncode(self) -> int | None: ...
    def send_signal(self, number: signal.Signals) -> None: ...
    async def wait(self) -> int: ...


class MachineFailed(Exception):
    """The process ended, or stayed silent, instead of listening; the message holds what it printed."""


class Machine:
    """A `run-gateway serve` process. `log` is what it has printed so far, on stdout and stderr.

    `program` is the module that is run as `run-gateway`.
    """

    def __init__(self, env: Mapping[str, str], program: str = "gateway.cli") -> None:
        self.log = ""
        self.url = ""
        self._env = dict(env)
        self._program = program
        self._process: Process | None = None
        self._output: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()
        self._begin = 0  # where in the log the present process begins

    @property
    def port(self) -> int:
        """The port it really listens on."""
        return int(self.url.rpartition(":")[2])

    @property
    def pid(self) -> int:
        """The process that was started last."""
        assert self._process is not None, "it has been launched"
        return self._process.pid

    @property
    def running(self) -> bool:
        """True if it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def launch(self) -> None:
        """Starts the process and waits until it listens. Raises MachineFailed."""
        assert self._process is None or self._process.returncode is not None, "one process at a time"
        self._listening.clear()
        self._begin = len(self.log)
        self._process = await self._begun(self._program, self._environment())
        self._output = asyncio.create_task(self._read(self._process))
        try:
            async with asyncio.timeout(START_PATIENCE):
                await self._listening.wait()
        except TimeoutError:
            await self.kill()
            raise MachineFailed(f"not listening after {START_PATIENCE:g} s:\n{self.log}") from None
        except BaseException:
            await self.kill()
            raise
        if not READY.search(self.log, self._begin):
            raise MachineFailed(f"exit code {await self._reap()}:\n{self.log}")

    async def kill(self) -> None:
        """Ends it by SIGKILL, without a warning. Does nothing if it has ended already, or was never started."""
        if self._process is not None:
            await self._end(signal.SIGKILL)

    async def terminate(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Asks it to end, waits for it, and returns the exit code. Raises TimeoutError, after killing it."""
        try:
            async with asyncio.timeout(STOP_PATIENCE):
                return await self._end(number)
        except TimeoutError:
            await self.kill()
            raise TimeoutError(f"did not end within {STOP_PATIENCE:g} s of {number.name}:\n{self.log}") from None

    async def end(self) -> None:
        """Makes sure that it has ended: by SIGTERM first, then by SIGKILL. Does nothing if it was never started."""
        if self.running:
            with contextlib.suppress(TimeoutError):
                await self.terminate()

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal, and waits for nothing: `wait` does."""
        assert self._process is not None, "it has been launched"
        self._process.send_signal(number)

    async def wait(self) -> int:
        """The exit code, once it has ended."""
        return await self._reap()

    async def _end(self, number: signal.Signals) -> int:
        assert self._process is not None, "it has been launched"
        if self._process.returncode is None:
            self._process.send_signal(number)
        return await self._reap()

    async def _reap(self) -> int:
        assert self._process is not None and self._output is not None, "it has been launched"
        code = await self._process.wait()
        await self._output
        return code

    async def _begun(self, program: str, env: Mapping[str, str]) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # our own path as it is, and not the working folder before it
            "-c",
            _CHILD,
            program,
            "serve",
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C in the terminal is for the parent, who ends its children
        )

    def _environment(self) -> dict[str, str]:
        # Settings of the parent are not the child's; the rest of its environment is.
        ours = {variable(name) for name in Settings.model_fields}
        inherited = {name: value for name, value in os.environ.items() if name.upper() not in ours}
        return inherited | {"PYTHONUNBUFFERED": "1", "HOST": "127.0.0.1", "PORT": "0"} | self._env

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None, "stdout is a pipe"
        while chunk := await process.stdout.read(65_536):
            self.log += chunk.decode(errors="replace")
            if not self._listening.is_set() and (found := READY.search(self.log, self._begin)):
                self.url = found[1]
                self._listening.set()
        self._listening.set()  # or it never will: `launch` looks again
