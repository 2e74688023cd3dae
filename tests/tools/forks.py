"""Processes of the house without the second of processor time that its imports take: forks of one that has made them.

Law: what is forked is a real process: of its own memory, descriptors, signals and end. A process whose very start is in
question (libraries, Python's own settings) is not forked but executed.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Final

from tests.tools.forking import MOST

SAID: Final = {"PYTHONUNBUFFERED"}  # what has its effect in a fork, too
EXECUTED: Final = ("LD_", "PYTHON", "MALLOC_", "GLIBC_")


def can_fork(env: Mapping[str, str]) -> bool:
    """False where a process has to be executed: its interpreter is to be another than ours."""
    return sys.platform == "linux" and not any(
        name.startswith(EXECUTED) and name not in SAID and os.environ.get(name) != value for name, value in env.items()
    )


class Forked:
    """An `asyncio.subprocess.Process`, as far as one is needed."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._ended: asyncio.Task[None]

    async def wait(self) -> int:
        await asyncio.shield(self._ended)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: signal.Signals | int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def communicate(self, stdin: bytes = b"") -> tuple[bytes, bytes]:
        """Gives it the rest of its stdin; what it has printed, when it has ended."""
        assert self.stdin is not None and self.stdout is not None and self.stderr is not None
        out, err, _, _ = await asyncio.gather(self.stdout.read(), self.stderr.read(), self._feed(stdin), self.wait())
        return out, err

    async def _feed(self, rest: bytes) -> None:
        assert self.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it need not read all of it
            self.stdin.write(rest)
            await self.stdin.drain()
        self.stdin.close()

    async def watch(self, status: int) -> None:
        reader = await reading(status)

        async def ended() -> None:
            said = await reader.read()
            self.returncode = int(said or b"-9")  # the process that forks has been killed, and its children with it

        self.ends_with(asyncio.ensure_future(ended()))

    def ends_with(self, ended: asyncio.Task[None]) -> None:
        """`ended` sets the returncode, and then is done."""
        self._ended = ended


async def fork(module: str, arguments: Sequence[str], env: Mapping[str, str]) -> Forked:
    """`python -m MODULE ARGUMENTS…` with this environment, stdout and stderr in one pipe, and nothing on stdin."""
    out, out_end = os.pipe()
    nothing = os.open(os.devnull, os.O_RDONLY)
    process = await _forked(module, arguments, env, [nothing, out_end, out_end])
    process.stdout = await reading(out)
    return process


async def fork_with_pipes(
    module: str, arguments: Sequence[str], env: Mapping[str, str], *, forks: bool = False
) -> Forked:
    """The same with a pipe for each of stdin, stdout and stderr. `forks`: it will ask for forks itself."""
    (in_end, into), (out, out_end), (err, err_end) = os.pipe(), os.pipe(), os.pipe()
    process = await _forked(module, arguments, env, [in_end, out_end, err_end], forks=forks)
    process.stdin = await writing(into)
    process.stdout, process.stderr = await reading(out), await reading(err)
    return process


async def _forked(
    module: str, arguments: Sequence[str], env: Mapping[str, str], given: list[int], *, forks: bool = False
) -> Forked:
    """Closes what it gives to the child."""
    status, status_end = os.pipe()
    wanted = {"module": module, "arguments": list(arguments), "env": dict(env), "folder": os.getcwd(), "forks": forks}
    try:
        process = Forked(SERVER.ask(wanted, [*given, status_end]))
    finally:
        for descriptor in {*given, status_end}:
            os.close(descriptor)
    await process.watch(status)
    return process


async def reading(descriptor: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
    )
    return reader


async def writing(descriptor: int) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), os.fdopen(descriptor, "wb", 0)
    )
    return asyncio.StreamWriter(transport, protocol, None, loop)


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends by which a process that forks is asked."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MOST)
    return ends


class _Server:
    """The process that forks, begun when it is first asked, and ended with this one."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._one = threading.Lock()

    def ask(self, wanted: Mapping[str, object], descriptors: list[int]) -> int:
        """The pid of a new child."""
        message = json.dumps(wanted).encode()
        assert len(message) < MOST
        with self._one:
            ours = self._begun()
            socket.send_fds(ours, [message], descriptors)
            pid = ours.recv(64)
        assert pid, "the process that forks has ended: what it said is above"
        return int(pid)

    def lend(self, ours: socket.socket) -> None:
        """One that is there already, and ends when this process does."""
        self._socket = ours

    def _begun(self) -> socket.socket:
        if self._socket is None:
            ours, theirs = pair()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "tests.tools.forking", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            self._socket = ours
            atexit.register(self._end)
        return self._socket

    def _end(self) -> None:
        assert self._socket is not None and self._process is not None
        self._socket.close()
        self._process.wait()


SERVER: Final = _Server()
