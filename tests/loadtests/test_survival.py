"""The harness that anyone can run: it says yes to the gateway, and no to one with a law broken on purpose."""

from __future__ import annotations

import asyncio
import sys

import pytest

from loadtests.survival import schedule
from loadtests.survival.soak import Growth, Samples
from tests.loadtests.survival import faults, survival

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Machines are frozen, and read from /proc")

RELAYED = ("--relay", "--seconds", "8", "--runs", "4", "--readers", "3", "--only", schedule.KILL, "--pause", "3")
FEW = ("--runs", "1", "--readers", "1", "--machines", "2")


async def test_machines_readers_and_writers_survive_every_fault_once() -> None:
    code, report = await survival("--seed", "4", "--seconds", "19", "--readers", "4")
    assert report["notes"] == []
    assert code == 0
    assert faults(report) == set(schedule.KINDS)
    assert float(report["events delivered"].replace(",", "")) > 1000
    assert "0" not in report["of these ended for a dead writer; cancelled"].split("; ")
    assert "0" not in [rounds for chore, rounds in report.items() if chore.startswith("rounds of ")]


async def test_relayed_runs_survive_kills_and_cuts() -> None:
    code, report = await survival(*RELAYED)
    assert report["notes"] == []
    assert code == 0
    relayed, rejoined, _ = report["of these relayed; asked for the rest; lost"].split("; ")
    assert "0" not in (relayed, rejoined)


async def test_a_relay_that_repeats_frames_is_found_out() -> None:
    # Whether a recording is gone on with in so few seconds is a matter of luck; of a few tries one has to find it.
    for _ in range(4):
        code, report = await survival(*RELAYED, "--machine-module", "tests.loadtests.broken.no_overlap")
        if report["repeated"] != "0":
            break
    assert code == 1 and report["repeated"] != "0", report["notes"]


async def test_a_conversation_never_has_two_owners() -> None:
    """Nor late writes of one that was frozen for longer than its lease; an owner that ignores it is found out."""
    calm = ("--owned", "--seconds", "5", "--pause", "2.5", "--runs", "6", "--only", schedule.OVERTAKE)
    broken = (*calm, "--machine-module", "tests.loadtests.broken.overstays")
    (code, report), (broken_code, found) = await asyncio.gather(survival(*calm), survival(*broken))
    assert report["notes"] == []
    assert code == 0
    talks, taken, owners = map(int, report["conversations; messages taken; owners one after the other"].split("; "))
    assert taken > talks and owners > talks
    for _ in range(3):  # what is frozen may own nothing just then
        if broken_code == 0:
            broken_code, found = await survival(*broken)
    assert broken_code == 1 and found["two owners"] != "0", found["notes"]


async def test_a_rolling_deploy_cuts_nobody_off() -> None:
    code, report = await survival("--rolling", "--seconds", "1", "--readers", "4")
    assert report["notes"] == []
    assert code == 0
    assert report["fault: terminate a Machine"] == "3"


@pytest.mark.parametrize(
    ("broken", "kinds"),
    [
        ("early_end", {"early ends"}),
        # Whichever of its readers comes first to its run's end; or to a body with nothing where an event should be.
        ("trusted_news", {"lost", "early ends", "wrong answers"}),
        ("tail_position", {"lost", "early ends", "wrong offsets"}),
    ],
)
async def test_a_gateway_with_a_law_broken_on_purpose_is_found_out(broken: str, kinds: set[str]) -> None:
    # Whether a reader is hit in so few seconds is a matter of luck; of a few tries one has to find it.
    for _ in range(4):
        code, report = await survival(
            "--seconds", "6", "--readers", "4", "--machine-module", f"tests.loadtests.broken.{broken}"
        )
        if code != 0:
            break
    assert code == 1
    assert any(report[kind] != "0" for kind in kinds), report


async def test_a_log_with_a_promise_broken_is_found_out() -> None:
    early = "ended less than 2 s after a COMMIT"
    # The chore that the promise is about, alone, and what it finds: whichever it comes to first.
    said = {
        "counts_from_call": ("transaction", ("was committed, and a reader is answered 404", early)),
        "lease_from_call": ("transaction", (early,)),
        "deaf_wakes": ("wakes", ("has work, and nobody was woken",)),
        "retires_open": ("retention", ("is open, and gone",)),
    }
    # It stops as soon as something is found. A busy machine needs more rounds for that, and has as many as it needs.
    calm = ("--rolling", "--seconds", "300", "--patience", "8", "--retention", "12", *FEW)
    reports = await asyncio.gather(
        *(
            survival(*calm, "--chore", chore, "--machine-module", f"tests.loadtests.broken.{broken}")
            for broken, (chore, _) in said.items()
        )
    )
    for (_, sentences), (code, report) in zip(said.values(), reports, strict=True):
        assert code == 1
        assert any(sentence in note for note in report["notes"] for sentence in sentences), report["notes"]


async def test_takeovers_lose_nothing_or_tell_what_they_lost() -> None:
    calm = ("--seconds", "6", "--runs", "2", "--readers", "4", "--machines", "2")
    near = [argument for kind in schedule.OF_REPLICA for argument in ("--only", kind)]
    (over_code, over), (back_code, back), (near_code, beside) = await asyncio.gather(
        survival("--failovers", "--only", schedule.FAILOVER, "--only", schedule.HANDOVER, *calm),
        survival("--lagging", "--only", schedule.LAGGING, *calm),
        survival("--replica", *near, *calm, "--seconds", "10"),
    )
    assert (over["notes"], over_code, back["notes"], back_code) == ([], 0, [], 0)
    assert (beside["notes"], near_code) == ([], 0)
    assert faults(beside) >= set(schedule.OF_REPLICA)
    assert faults(over) >= set(schedule.OF_CLUSTER) and schedule.LAGGING in faults(back)
    assert back["takeovers that were certain to lose an event"] != "0"


async def test_takeovers_and_lags_that_nobody_notices_are_found_out() -> None:
    """Whoever comes back with the offset of a lost event is given another one, or is up to date. And whoever reads what
    was just acknowledged is given what a replica has of it.
    """
    calm = (*FEW, "--machine-module")
    (code, report), (stale_code, stale) = await asyncio.gather(
        survival("--lagging", "--only", schedule.LAGGING, "--seconds", "6", *calm, "tests.loadtests.broken.epochless"),
        survival(
            "--replica", "--only", schedule.PAUSE_REPLICA, "--seconds", "30", *calm, "tests.loadtests.broken.stale"
        ),
    )
    assert stale_code == 1
    assert any("and is read as" in note for note in stale["notes"]), stale["notes"]
    assert code == 1
    assert any("comes back to what is lost, and is answered 200" in note for note in report["notes"]), report["notes"]


def test_a_seed_draws_the_same_faults_and_another_seed_others() -> None:
    drawn = [schedule.draw(seed, 60, schedule.KINDS, 3) for seed in (7, 7, 8)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(0 <= fault.at < 60 and fault.lasts <= schedule.LONGEST for fault in drawn[0])


def test_every_kind_comes_before_any_comes_again() -> None:
    faults = schedule.draw(1, 60, schedule.KINDS, 3)
    assert {fault.kind for fault in faults[: len(schedule.KINDS)]} == set(schedule.KINDS)


def test_the_process_of_a_spared_machine_is_not_ended() -> None:
    faults = schedule.draw(1, 600, schedule.KINDS, 3, spared=2)
    hit = {fault.machine for fault in faults if fault.kind in schedule.ENDING}
    assert hit == {0, 1}
    assert 2 in {fault.machine for fault in faults}


def test_a_machine_that_grows_is_told_from_one_that_warms_up() -> None:
    mb = 1 << 20
    warming = Samples([50 * mb] * 5 + [80 * mb] * 15, [20] * 5 + [40] * 15)
    growing = Samples([80 * mb + n * 2 * mb for n in range(20)], [40] * 20)
    leaking = Samples([80 * mb] * 20, [40 + 2 * n for n in range(20)])
    assert [Growth.of(samples).flat for samples in (warming, growing, leaking)] == [True, False, False]
