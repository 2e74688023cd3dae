"""`run-gateway` with a probe in its loop: what is run in its place, to see how long its turns are.

The loop has a timer. Whatever else it does, it comes to that timer too late by as long as its turn took. A turn that
the system interrupted, since other processes wanted the processor, is told from one that computed by the thread's CPU.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from unittest.mock import patch

from gateway.cli import main
from gateway.wire.intake import Intake
from gateway.wire.server import Server
from gateway.wire.transport import DirectProtocol

TICK = 0.005  # seconds
LONG = 0.02  # a turn that takes longer is written down (law 11), unless SIEGE_LONG says otherwise
SUSPECT = 0.05  # and of one that takes so long already, where it is now; or SIEGE_SUSPECT
DEPTH = 4  # calls that are told of it
VARIABLE = "SIEGE_TURNS"  # the file that turns are written to
APPENDS = ".appends"  # what the name of the one beside it ends with, that appends of the honest are written to
APPEND = b"POST /runs/pulse-"  # how these begin

startup = Server.startup
data_received, on_response_complete = Intake.data_received, DirectProtocol.on_response_complete


class Probe:
    """Writes a line for each long turn: when it ended, its seconds, those of CPU, and where it was seen."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("a", buffering=1)
        self._long = float(os.environ.get("SIEGE_LONG", LONG))
        self._suspect = float(os.environ.get("SIEGE_SUSPECT", SUSPECT))
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._place = ""
        self._began = self._due = time.monotonic()
        self._cpu = time.thread_time()
        self._tick()
        threading.Thread(target=self._watch, daemon=True).start()

    def _tick(self) -> None:
        now, cpu = time.monotonic(), time.thread_time()
        late = now - self._due
        if late > self._long:
            self._file.write(f"{now:.4f} {late:.4f} {min(late, cpu - self._cpu):.4f} {self._place}\n")
        self._place = ""
        self._began, self._due, self._cpu = now, now + TICK, cpu
        self._loop.call_later(TICK, self._tick)

    def _watch(self) -> None:
        while True:
            time.sleep(TICK)
            if time.monotonic() - self._due > self._suspect and not self._place:
                self._place = _place(sys._current_frames().get(self._thread))


def _place(frame: FrameType | None) -> str:
    """The innermost calls, the caller first."""
    calls: list[str] = []
    while frame is not None and len(calls) < DEPTH:
        calls.append(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}:{frame.f_lineno}")
        frame = frame.f_back
    return "<".join(calls)


class Appends:
    """Writes a line for each append of the honest: when it was answered, and the seconds that the loop computed, for
    whomever, since it had come.
    """

    def __init__(self, file: Path) -> None:
        self._file = file.open("a", buffering=1)
        self._begun: dict[int, float] = {}  # the loop's CPU then, by connection

    def came(self, connection: Intake, data: bytes) -> None:
        if data.startswith(APPEND):
            self._begun[id(connection)] = time.thread_time()
        data_received(connection, data)

    def answered(self, connection: DirectProtocol) -> None:
        begun = self._begun.pop(id(connection), None)
        if begun is not None:
            self._file.write(f"{time.monotonic():.4f} {time.thread_time() - begun:.5f}\n")
        on_response_complete(connection)


async def startup_with_a_probe(server: Server, sockets: list[socket.socket] | None = None) -> None:
    file = Path(os.environ[VARIABLE])
    Probe(file)
    appends = Appends(file.with_suffix(APPENDS))
    patch.object(Intake, "data_received", lambda *told: appends.came(*told)).start()
    patch.object(DirectProtocol, "on_response_complete", lambda answered: appends.answered(answered)).start()
    await startup(server, sockets)


if __name__ == "__main__":
    patch.object(Server, "startup", startup_with_a_probe).start()
    main(prog_name="run-gateway")
