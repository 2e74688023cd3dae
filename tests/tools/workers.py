"""Workers of a Machine that was forked: forked, too, where one that is executed takes a second to import what it has.

Law: a worker is a child of its Machine, as one that the supervisor executes: with a session of its own, the same two
pipes, and the sockets that it inherits; and it lives by `gateway.process.worker` alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NoReturn

from gateway.process import worker
from tests.tools.forks import Forked, reading, writing

OURS: Final = set[int]()  # the ends of pipes that this process has to its workers: no other worker may hold them open


async def begun(inherited: Sequence[int]) -> Forked:
    """What `gateway.process.supervisor.begun` returns. A fork has all that is inherited, as it is."""
    (in_end, into), (out, out_end) = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        for descriptor in {*OURS, into, out} - {in_end, out_end}:
            with suppress(OSError):  # of one that has just ended
                os.close(descriptor)
        _work(in_end, out_end)
    os.close(in_end)
    os.close(out_end)
    OURS.update((into, out))
    process = Forked(pid)
    process.stdin, process.stdout = await writing(into), await reading(out)
    process.ends_with(asyncio.ensure_future(_ended(process, into, out)))
    return process


async def _ended(process: Forked, *ends: int) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    descriptor = os.pidfd_open(process.pid)
    loop.add_reader(descriptor, ended.set)
    await ended.wait()
    loop.remove_reader(descriptor)
    os.close(descriptor)
    process.returncode = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])  # noqa: ASYNC222  it has ended
    assert process.stdin is not None
    process.stdin.close()
    OURS.difference_update(ends)


def _work(in_end: int, out_end: int) -> NoReturn:
    """Leaves behind what the Machine has in this process (its loop, its signals, its log), and is a worker."""
    code = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
        asyncio._set_running_loop(None)
        for given, descriptor in enumerate((in_end, out_end)):
            os.dup2(descriptor, given)
            os.close(descriptor)
        logging.getLogger().handlers.clear()
        worker.main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001  it ends here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)
