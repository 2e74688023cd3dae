"""A Machine's beginning and end: whatever one part raises, all that were started are stopped."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.app import Gateway
from gateway.settings import Settings

STARTS = ("_auth.start", "_log.listener.start", "_subscriptions.start", "metrics.open", "_runs.start")
STOPS = (
    "_log.writer.close",
    "_runs.stop",
    "_subscriptions.stop",
    "_log.listener.stop",
    "_auth.stop",
    "metrics.close",
    "_database.close",
)


class Fault(Exception):
    """A part's."""


async def lived(monkeypatch: pytest.MonkeyPatch, url: str, faulty: str) -> list[str]:
    """Starts and stops a Machine of which one part raises. Returns what was stopped, in order."""
    defaults: dict[str, Any] = {}
    gateway = Gateway(Settings(**defaults), url)
    stopped: list[str] = []

    def fault() -> None:
        raise Fault

    for name in {*STOPS, faulty}:
        part, _, method = name.rpartition(".")
        owner: object = gateway
        for step in part.split("."):
            owner = getattr(owner, step)
        real = getattr(owner, method)

        async def stop(name: str = name, real: object = real) -> None:
            if name in STOPS:
                stopped.append(name)
                await real()  # type: ignore[operator]
            if name == faulty:
                raise Fault

        monkeypatch.setattr(owner, method, fault if name == "_runs.start" else stop)
    with pytest.raises(Fault):
        async with gateway._life():
            pass
    return stopped


@pytest.mark.parametrize("part", STOPS)
async def test_a_part_that_fails_to_stop_keeps_none_from_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    assert await lived(monkeypatch, database_url, part) == list(STOPS)


@pytest.mark.parametrize("part", STARTS)
async def test_a_part_that_fails_to_start_closes_what_had_started(
    database_url: str, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    if part == "metrics.open":
        left = {"_database.close"}
    else:
        left = set(STOPS) - {"_log.writer.close"} - (set() if part == "_runs.start" else {"_runs.stop"})
    assert set(await lived(monkeypatch, database_url, part)) == left
