"""The readers of the manual's table that this machine has, each with nothing but its own standard library."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import Two
from tests.node import unavailable

pytestmark = pytest.mark.asyncio(loop_scope="session")  # as the Machines that these tests share
HERE = Path(__file__).parent


JARS = ("/usr/share/java/okhttp.jar", "/usr/share/java/okio.jar")  # Debian's libokhttp-java
LANGUAGES = {
    "curl": ("bash", "read.sh"),
    "go": ("go", "run", "read.go"),
    "java": ("java", "Read.java"),
    "okhttp": ("java", "-cp", ":".join(JARS), "ReadOkHttp.java"),
    "php": ("php", "read.php"),
    "python": (sys.executable, "read.py"),
    "ruby": ("ruby", "read.rb"),
}


def command(language: str) -> list[str]:
    *program, file = LANGUAGES[language]
    if shutil.which(program[0]) is None or shutil.which("curl") is None:
        unavailable(f"{program[0]} or curl is not installed")
    if language == "okhttp" and not all(map(os.path.exists, JARS)):
        unavailable("OkHttp is not installed")
    if language == "php" and b"curl" not in subprocess.run(["php", "-m"], capture_output=True, check=True).stdout:
        unavailable("PHP has no curl")
    return [*program, str(HERE / file)]


@pytest.mark.parametrize("language", LANGUAGES)
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
