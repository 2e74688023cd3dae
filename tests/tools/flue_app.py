"""A Flue app, installed from npm and built on demand, once for all test runs of a checkout.

Where Node or the download is not to be had, the tests that ask for it are skipped, which fails in CI (tests/node.py).
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.node import npm_ci, unavailable


@functools.cache
def built(app: Path, *build: str) -> Path:
    """The app's folder, with its packages and its server. `build`: a program of its packages, with arguments.

    Skips the test where they cannot be had.
    """
    if os.uname().sysname != "Linux" or os.uname().machine != "x86_64":
        unavailable("the Flue app's own Node comes for Linux on x86-64 alone")
    npm_ci(app)
    with open(app / "node_modules" / ".build-lock", "w") as lock:  # one process of a test run builds, the others wait
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = app / "dist" / f".built-{_fingerprint(app)}"
        if not stamp.exists():
            command = ["node_modules/.bin/node", *build]
            done = subprocess.run(command, cwd=app, capture_output=True, text=True, timeout=120)
            if done.returncode:
                pytest.fail(f"the Flue app does not build:\n{done.stdout}{done.stderr}", pytrace=False)
            stamp.touch()
    return app


def _fingerprint(app: Path) -> str:
    """Of all that the server is built from."""
    sources = hashlib.sha256()
    for path in sorted([app / "package-lock.json", *app.glob("*.config.ts"), *app.glob("src/**/*.ts")]):
        sources.update(path.read_bytes())
    return sources.hexdigest()[:16]
