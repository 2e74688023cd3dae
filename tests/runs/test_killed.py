"""A producer and its Machine killed at once: every reader elsewhere is told of the end."""

from __future__ import annotations

from loadtests.probes.runs import cancel, lose


async def test_the_runs_of_a_killed_producer_end_and_others_go_on(database_url: str) -> None:
    ends = await lose(database_url, open=100, lost=20, lease=4)
    assert ends.left == 100
    assert len(ends.seconds) == 20
    assert min(ends.seconds) > 2, "never before its time, though the last event may have been late"
    assert max(ends.seconds) < 4 + 30, "the bound of 4 + 2 s is measured where nothing else runs"


async def test_a_cancel_reaches_the_producer_at_the_other_machine(database_url: str) -> None:
    assert max(await cancel(database_url, 3)) < 30
