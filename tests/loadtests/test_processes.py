"""What the kernel says of processes, and that those which are started are ended."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from loadtests.bench.processes import Cpu, Failed, Process, cpu, family, free_port, memory, peak, reset_peak

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="everything is read from /proc")

# A process whose child listens on the port that it is given.
PARENT = """
import subprocess, sys
child = "import socket, sys; server = socket.create_server(('127.0.0.1', int(sys.argv[1]))); sys.stdin.read()"
subprocess.Popen([sys.executable, "-c", child, sys.argv[1]], stdin=subprocess.PIPE).wait()
"""


def test_a_process_belongs_to_its_own_family() -> None:
    assert family([os.getpid()])[0] == os.getpid()


async def test_children_of_children_count(tmp_path: Path) -> None:
    port = free_port()
    process = await Process.start([sys.executable, "-c", PARENT, str(port)], tmp_path / "log")
    try:
        await process.listening(port)
        assert len(family([process.pid])) == 2
        assert cpu([process.pid]).total > 0
        assert memory([process.pid]) > 1 << 20
    finally:
        await process.stop()
    assert not process.running


def test_the_peak_begins_anew_and_is_not_below_what_is_there() -> None:
    reset_peak([os.getpid()])
    assert peak([os.getpid()]) >= memory([os.getpid()])


def test_cpu_is_the_difference_of_two_looks() -> None:
    assert Cpu(3.0, 2.0) - Cpu(1.0, 0.5) == Cpu(2.0, 1.5)
    assert Cpu(2.0, 1.5).total == 3.5


async def test_a_server_that_ends_early_is_reported_with_its_output(tmp_path: Path) -> None:
    process = await Process.start([sys.executable, "-c", "print('no such thing')"], tmp_path / "log")
    with pytest.raises(Failed, match="no such thing"):
        await process.listening(1)
