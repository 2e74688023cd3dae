"""`python -P -m tests.tools.forking FD`: a process that has imported the house, and forks for who asks at that socket.

It has no thread and no event loop, so a child of it is what a new interpreter is after its imports. A child has the
descriptors, environment, folder and arguments that it is given, and a session of its own; it ends when this ends. One
that forks processes itself has a process like this one for it, which is forked, too.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from importlib import import_module
from typing import Any, Final

from gateway.cli import COMMANDS
from gateway.process import supervisor

IMPORTED: Final = (
    "gateway.cli.serve",
    "gateway.embedded",
    "gateway.process.server",
    # What these import as they run, if they are asked for it:
    *(f"gateway.cli.{module}" for module in sorted({*COMMANDS.values()})),
    "gateway.auth.jwks",
    "gateway.flue.flue",
    "gateway.http.following_routes",
    "gateway.http.openapi.appends",
    "gateway.http.openapi.docs",
    "gateway.http.openapi.document",
    "gateway.http.openapi.health",
    "gateway.http.openapi.refusals",
    "gateway.metrics.siblings",
    "gateway.owner.flue.agents",
    "gateway.owner.owner",
    "gateway.page",
    "gateway.relay.relay",
    "gateway.runs.run_collection",
    "gateway.subscriptions.routes",
    "gateway.subscriptions.webhooks",
    "anyio._backends._asyncio",
    "encodings.idna",
    "pydantic.v1",
)
MOST: Final = 1 << 20  # bytes of a request
LAST: Final = 3  # descriptors that a child is given: its stdin, stdout and stderr; one more says how it has ended


def main(asked: socket.socket) -> None:
    """Returns in each child, and in this process when nobody can ask any more."""
    for name in IMPORTED:
        import_module(name)
    from tests.tools.workers import begun  # which knows this module

    supervisor.begun = begun  # type: ignore[assignment]
    gc.collect()
    gc.freeze()
    serve(asked)


def serve(asked: socket.socket) -> None:
    """The same, when everything has been imported."""
    bell, ring = os.pipe()
    asking = asked.fileno()
    os.set_blocking(ring, False)
    signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([asking, bell], [], [])
        if bell in ready:
            os.read(bell, 4096)
            _reap(children)
        if asking in ready:
            message, given, _, _ = socket.recv_fds(asked, MOST, LAST + 1)
            if not message:
                return None
            pid = os.fork()
            if not pid:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.set_wakeup_fd(-1)
                return _become(json.loads(message), given)
            children[pid] = given[LAST]
            for descriptor in given[:LAST]:
                os.close(descriptor)
            asked.send(b"%d" % pid)


def _reap(children: dict[int, int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        ended = children.pop(pid)
        with suppress(BrokenPipeError):  # nobody waits for it
            os.write(ended, b"%d" % os.waitstatus_to_exitcode(status))
        os.close(ended)


def _become(wanted: dict[str, Any], given: list[int]) -> None:
    """Makes this process what was asked for, and runs that."""
    for number, descriptor in enumerate(given[:LAST]):
        os.dup2(descriptor, number)
    os.closerange(LAST, os.sysconf("SC_OPEN_MAX"))
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)  # it ends with its parent
    os.chdir(wanted["folder"])
    os.environ.clear()
    os.environ.update(wanted["env"])
    time.tzset()
    if wanted["forks"] and _lend():
        return
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through="PYTHONUNBUFFERED" in os.environ)  # type: ignore[union-attr]
    sys.argv[:] = ["-c", *wanted["arguments"]]
    runpy.run_module(wanted["module"], run_name="__main__", alter_sys=True)


def _lend() -> bool:
    """Gives this process one that forks for it; true in that one, when nobody can ask it any more."""
    from tests.tools.forks import SERVER, pair  # which knows this module

    ours, theirs = pair()
    if os.fork():
        theirs.close()
        SERVER.lend(ours)
        return False
    ours.close()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(2):
        os.dup2(nothing, number)
    os.close(nothing)
    serve(theirs)
    return True


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
