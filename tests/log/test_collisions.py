"""Many sessions call the log at once, and it keeps its rules; a log with one of them broken by hand is found out."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from pathlib import Path

import pytest

from loadtests.collisions import findings as found
from loadtests.collisions.server import binaries, open_server
from loadtests.collisions.stress import Outcome, collide
from tests.databases import Postgres
from tests.faults.host import unless_ci

SCRIPTS = files("gateway.log") / "sql" / "functions"
TRIES = 3  # of so many seconds: whether a rule is put to the test in one is a matter of luck
SHORT = 4.0
TOGETHER = 3  # of them are tried at the same time, in databases of their own

BREAKS = {
    "an append leaves a number out": (
        "append.sql", "SET tail = append_one.tail,", "SET tail = append_one.tail + 1,", {found.HOLES}),
    "a repetition is taken again": (
        "append.sql", "WHEN epoch = known_epoch AND seq <= known_seq THEN 'duplicate'", "", {found.PRODUCERS}),
    "a closed stream takes events": (
        "append.sql", "WHEN closed THEN 'closed'", "", {found.CLOSED}),
    "an open stream is retired": (
        "lifecycle.sql", "WHERE s.closed_at < since", "WHERE s.created_at < since", {found.LOST}),
    "an end is judged by now()": (
        "append.sql", "IF s.expires_at <= clock_timestamp()", "IF s.expires_at <= now()", {found.RISEN}),
    "a TTL and a lease count from the call": (
        "transactional.sql", "IF num_nonnulls(ttl, lease) > 0 THEN", "IF false THEN", {found.LOST, found.LEASES}),
    "a fork has one event of its source's too many": (
        "lifecycle.sql", "least(u.until, at)", "u.until", {found.FORKS, found.HOLES, found.INVENTED}),
    "a page holds its events the wrong way round": (
        "pack.sql", "string_agg(w.data, separator)", "string_agg(w.data, separator ORDER BY w.seq DESC)",
        {found.ALTERED}),
    "an ack is taken after the lease was lost": (
        "subscriptions.sql", "(s.generation, s.generation, s.wake_id) IS DISTINCT FROM",
        "false AND (s.generation, s.generation, s.wake_id) IS DISTINCT FROM", {found.LINKS}),
}  # fmt: skip


def holds(outcome: Outcome) -> None:
    assert outcome.findings.notes == [], outcome.text()
    assert outcome.history.done["kills"] > 0
    assert outcome.history.errors["40P01"] == 0


async def test_the_log_keeps_its_rules_when_sessions_collide(database_url: str) -> None:
    holds(await collide(database_url, seed=18, seconds=12))


async def test_the_log_keeps_its_rules_on_postgres_15(tmp_path: Path) -> None:
    if binaries(15) is None:
        unless_ci("Postgres 15 is not installed")
    async with open_server(15, tmp_path / "data") as url:
        holds(await collide(url, seed=15, seconds=8))


@pytest.mark.parametrize("first", range(0, len(BREAKS), TOGETHER))
async def test_a_log_that_is_broken_by_hand_is_found_out(postgres: Postgres, first: int) -> None:
    unfound = list(BREAKS)[first : first + TOGETHER]
    for seed in range(TRIES):
        outcomes = await asyncio.gather(*(collide_broken(postgres, broken, seed) for broken in unfound))
        unfound = [
            broken
            for broken, outcome in zip(unfound, outcomes, strict=True)
            if BREAKS[broken][-1].isdisjoint(outcome.findings.counts)
        ]
        if not unfound:
            return
    pytest.fail(f"Not found out: {unfound}")


async def collide_broken(postgres: Postgres, broken: str, seed: int) -> Outcome:
    """What becomes of a log whose functions have one place changed."""
    script, right, wrong, _ = BREAKS[broken]
    text = (SCRIPTS / script).read_text()
    assert right in text
    async with postgres.database() as url:
        database = Postgres(url)
        await database.execute(text.replace(right, wrong))
        await database.execute((SCRIPTS / "waiting.sql").read_text())
        return await collide(url, seed, SHORT)
