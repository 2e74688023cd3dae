"""The survival harness with real Flue servers as producers: they fail, Machines fail, and every reader has the run."""

from __future__ import annotations

import asyncio

from loadtests.survival import schedule
from tests.flue.real.rig import built
from tests.loadtests.survival import faults, survival

READERS = ("--readers", "4")  # of each run, one of each kind


async def test_runs_of_a_flue_app_survive_every_fault_once() -> None:
    folder = await asyncio.to_thread(built)
    code, report = await survival("--flue", str(folder), "--seed", "24", "--seconds", "24", "--runs", "2", *READERS)
    assert report["notes"] == []
    assert code == 0
    assert faults(report) == {*schedule.KINDS, *schedule.OF_FLUE}
    # Whether one of them was on the server that was killed is chance; that its readers end is in test_followed.
    assert int(report["of these Flue's; ended for a dead server"].split("; ")[0]) > 2
