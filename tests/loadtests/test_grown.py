"""The database that `loadtests.grown` makes is one as the gateway leaves it."""

from __future__ import annotations

import pytest

from loadtests.grown import fill
from loadtests.probes.packing import events
from tests.log.rig import connected, opened
from tests.log.test_silence import BROKEN


async def test_what_is_filled_in_is_as_packing_leaves_it(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fill, "LONG_EVENTS", 300)
    told: list[str] = []
    await fill.fill(database_url, fill.Shape(30, 12), told.append)
    assert told == ["2 of 2 runs of 300 events are made", "30 of 30 runs of 12 events are made"]
    async with opened(database_url) as log, connected(database_url) as look:
        assert await look.fetch(BROKEN) == []
        assert await look.fetchval("SELECT count(*) FROM run_gateway.runs WHERE status = 'active'") == 1 + 3
        for path, each in (("runs/old-7", 12), ("runs/long-1", 300)):
            stream = await log.reader.stat(path)
            assert (stream.tail, stream.closed) == (each, True)
            assert await log.content(path) == b",".join(events(each, stream.id % fill.VARIANTS))
        before = await look.fetchval("SELECT count(*) FROM run_gateway.pages")
        await log.housekeeping.round()
        assert await look.fetchval("SELECT count(*) FROM run_gateway.pages") == before, "nothing is left to be packed"
        assert (await log.append("runs/old-0", b"1")).tail == 13
