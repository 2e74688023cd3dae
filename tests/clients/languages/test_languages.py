"""The readers of the manual's table that this machine has, each with nothing but its own standard library."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import Two
from tests.node import unavailable

pytestmark = pytest.mark.asyncio(loop_scope="session")  # as the Machines that these tests share
HERE = Path(__file__).parent


def command(language: str) -> list[str]:
    programs = {"curl": ("bash", "read.sh"), "java": ("java", "Read.java"), "python": (sys.executable, "read.py")}
    program, file = programs[language]
    if shutil.which(program) is None or shutil.which("curl") is None:
        unavailable(f"{program} or curl is not installed")
    return [program, str(HERE / file)]


@pytest.mark.parametrize("language", ["curl", "java", "python"])
async def test_a_reader_goes_on_through_a_cut_and_a_kill(language: str, two: Two) -> None:
    run = two.run
    process = await asyncio.create_subprocess_exec(*command(language), two.url, stdout=asyncio.subprocess.PIPE)
    got: list[Any] = []

    async def until(count: int) -> None:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            while len(got) < count:
                got.append(json.loads(await process.stdout.readline()))

    try:
        await run.append("with spaces  and a : in it", {"ünï": "\n\u2028 🏃"}, [1, [2]])
        await run.count(range(20))
        await until(20)
        two.proxy.cut()
        await run.count(range(20, 40))
        await until(40)
        await two.lose_a()
        await run.count(range(40, 60))
        await until(len(run.log))
        trap = two.proxy.cut_before(b"event: control")  # the end is told, and not heard
        await run.close({"last": True})
        await trap.sprung()
        await until(len(run.log))
        assert process.stdout is not None
        assert await process.stdout.read() == b""
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert got == run.log
