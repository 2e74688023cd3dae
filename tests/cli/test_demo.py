"""`run-gateway demo` as a process: what it says is true, and nothing is left of it."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from gateway.cli.demo import compare, recording
from gateway.process.exit_codes import Failure
from tests.cli.commands import command, end, running


def left_behind(out: str) -> list[str]:
    """The processes and folders that the demo named and that are still there."""
    pids = [int(pid) for pid in re.findall(r"process (\d+)", out)]
    folders = [Path(folder) for folder in re.findall(r"embedded, in (\S+)", out)]
    assert (len(pids), len(folders)) == (2, 1), out
    return [str(pid) for pid in pids if Path(f"/proc/{pid}").exists()] + [str(it) for it in folders if it.exists()]


async def test_the_demo_loses_a_machine_and_no_event(tmp_path: Path) -> None:
    ended = await command("demo", "--speed", "10", TMPDIR=str(tmp_path))
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.endswith("\nwritten 40, read 40: lost 0, repeated 0\n")
    readers = re.findall(r"^ *\d+\.\d+ s  ([AB]) +\d+/40  ", ended.out, re.MULTILINE)
    assert len(readers) == 40
    assert readers == sorted(readers)
    assert {"A", "B"} == set(readers)
    assert "A killed with SIGKILL" in ended.out
    assert left_behind(ended.out) == []


async def test_the_demo_of_the_relay_reloads_a_chat(tmp_path: Path) -> None:
    ended = await command("demo", "--relay", "--speed", "10", TMPDIR=str(tmp_path))
    assert (ended.code, ended.err) == (0, "")
    assert re.search(r"\nwords (\d+), read \1; the agent server was asked 1 time\(s\)\n$", ended.out)
    assert left_behind(ended.out) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_demo_that_is_interrupted_leaves_nothing(number: signal.Signals, code: int, tmp_path: Path) -> None:
    async with running("demo", TMPDIR=str(tmp_path)) as process:
        assert process.stdout is not None
        out = (await process.stdout.readuntil(b" s  A ")).decode()  # raises when it ends before
        process.send_signal(number)
        ended = await end(process)
    assert (ended.code, ended.err) == (code, "")
    assert left_behind(out) == []


def test_the_recording_is_a_run_from_its_start_to_its_end() -> None:
    events = recording()
    assert len(events) == 40
    assert '"type":"run_start"' in events[0].text
    assert '"type":"run_end"' in events[-1].text
    assert [event.at for event in events] == sorted(event.at for event in events)


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (["1", "3"], "lost or repeated"),
        (["1", "2", "2", "3"], "lost or repeated"),
        (["1", "2", "3", "4"], "lost or repeated"),
        (["2", "1", "3"], "out of order"),
    ],
)
def test_the_comparison_can_fail(read: list[str], words: str) -> None:
    with pytest.raises(Failure, match=words):
        compare(["1", "2", "3"], read)


def test_the_comparison_does_not_mind_how_json_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    compare(['{"a":1,"b":"\u00e9"}'], ['{"b": "\\u00e9", "a": 1}'])
    assert capsys.readouterr().out == "\nwritten 1, read 1: lost 0, repeated 0\n"
