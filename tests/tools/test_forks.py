"""A forked process is one of its own: its arguments, environment, output, signals, and an end that is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.servers import PATIENCE
from tests.tools.forks import can_fork, fork, fork_with_pipes


async def test_it_reads_writes_and_says_how_it_ended() -> None:
    right = await fork_with_pipes("json.tool", ["--compact"], os.environ)
    assert await right.communicate(b'{"a": 1}') == (b'{"a":1}\n', b"") and right.returncode == 0
    wrong = await fork_with_pipes("json.tool", [], os.environ)
    out, err = await wrong.communicate(b"{")
    assert not out and err.startswith(b"Expecting") and wrong.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
async def test_a_signal_ends_it_and_no_other(number: signal.Signals) -> None:
    one, other = [await fork_with_pipes("json.tool", [], os.environ) for _ in range(2)]
    assert len({one.pid, other.pid, os.getpid()}) == 3
    one.send_signal(number)
    assert await one.wait() in (-number, 130), "Python ends by an interrupt in its own way"
    assert await other.communicate(b"1") == (b"1\n", b"")


async def test_its_environment_and_folder_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    process = await fork("gateway", ["settings"], {**os.environ, "GATEWAY_DATA_DIR": "here"})
    assert process.stdout is not None
    assert b"here" in await process.stdout.read() and await process.wait() == 0
    made = await fork_with_pipes("zipfile", ["-c", "made.zip", __file__], os.environ)
    assert await made.communicate() == (b"", b"") and (tmp_path / "made.zip").exists()


def test_what_changes_the_interpreter_is_executed() -> None:
    assert can_fork({**os.environ, "PORT": "0", "PYTHONUNBUFFERED": "1"}) == (sys.platform == "linux")
    assert not can_fork({"LD_PRELOAD": "/lib/other.so"}) and not can_fork({"PYTHONPATH": "/elsewhere"})


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes are executed")
def test_none_outlives_who_asked_for_it() -> None:
    code = (
        "import asyncio, os, signal\nfrom tests.tools.forks import fork_with_pipes\n"
        "async def main():\n"
        "    print((await fork_with_pipes('json.tool', [], os.environ)).pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False)
    assert ended.returncode == -signal.SIGKILL
    stat = Path(f"/proc/{int(ended.stdout)}/stat")
    until = time.monotonic() + PATIENCE
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":  # its parent's end is a signal to it
        assert time.monotonic() < until
        time.sleep(0.01)
