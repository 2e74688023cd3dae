"""Running `run-gateway` as a person does: a process, its stdin, its stdout, its stderr and its exit code."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from gateway.settings import Settings, variable
from tests.tools.forks import Forked, can_fork, fork_with_pipes

PATIENCE = 120.0


Command = asyncio.subprocess.Process | Forked


class Ended(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def environment(**env: str) -> dict[str, str]:
    """The environment of a command: ours without settings, and what is given."""
    settings = {variable(name) for name in Settings.model_fields} | {"RUN_GATEWAY_TOKEN"}
    return {name: value for name, value in os.environ.items() if name not in settings} | env


async def _begun(arguments: Sequence[str], env: Mapping[str, str]) -> Command:
    if can_fork(env):
        return await fork_with_pipes("gateway", arguments, env)
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        *arguments,
        env=env,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def running(*arguments: str, **env: str) -> AsyncIterator[Command]:
    """A command with its three pipes; killed when the block is left before it has ended."""
    process = await _begun(arguments, environment(**env))
    try:
        async with asyncio.timeout(PATIENCE):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def end(process: Command, stdin: bytes = b"") -> Ended:
    """Gives it the rest of its stdin and waits until it ends."""
    out, err = await process.communicate(stdin)
    assert process.returncode is not None, "communicate waits for the end"
    return Ended(process.returncode, out.decode(), err.decode())


async def command(*arguments: str, stdin: bytes = b"", **env: str) -> Ended:
    """Runs a command to its end."""
    async with running(*arguments, **env) as process:
        return await end(process, stdin)


async def refuses(port: int) -> None:
    """Waits until nobody listens there any more."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            continue  # the port was closed while this connection waited to be accepted
        writer.close()
