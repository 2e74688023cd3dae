"""The commands' tests send Ctrl-C, which processes must therefore be able to hear."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _commands_hear_ctrl_c() -> Iterator[None]:
    """A shell starts what it runs in the background with SIGINT ignored, which children and theirs inherit."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
