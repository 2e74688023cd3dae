"""Processes of Postgres: started so that they end with the gateway, and told to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

from gateway.embedded.accounts import ENVIRONMENT, Account

# Runs before Postgres, in its process. The parent-death signal is cleared when credentials change, so it is asked
# for after they have; a preexec_fn would do the same between fork and exec, where threads make Python unsafe.
LAUNCH = """
import ctypes, os, sys
parent, account, death, *command = sys.argv[1:]
if account:
    uid, gid = map(int, account.split(":"))
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
if sys.platform == "linux" and ctypes.CDLL(None).prctl(1, int(death), 0, 0, 0):
    sys.exit("no parent-death signal")
if os.getppid() != int(parent):
    sys.exit("the gateway ended while it was starting Postgres")
os.execv(command[0], command)
"""


def launch(
    program: Path,
    cluster: Path,
    options: list[str],
    *,
    account: Account | None,
    lock: int,
    death: signal.Signals,
    log: BinaryIO,
) -> subprocess.Popen[bytes]:
    """A direct child in its own session (a Ctrl-C is for the gateway), which inherits the lock.

    `death` is what it is sent when we die. Forked by this thread: that signal comes when the thread that forked
    ends. As another user it may be unable to walk the path to the cluster (below a closed /root), and need not: it
    gets the folder opened. Its own working folder would not do: before 16 Postgres leaves that one at first.
    """
    user = f"{account.uid}:{account.gid}" if account is not None else ""
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCH, str(os.getpid()), user, str(int(death))]
    folder = os.open(cluster, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    where = f"/proc/self/fd/{folder}" if account is not None and sys.platform == "linux" else str(cluster)
    try:
        return subprocess.Popen(  # noqa: S603
            [*launcher, str(program), "-D", where, *options],
            cwd="/", env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            pass_fds=(lock, folder), start_new_session=True, umask=0o077,
        )  # fmt: skip
    finally:
        os.close(folder)
