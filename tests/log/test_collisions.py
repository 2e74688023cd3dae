"""Many sessions call the log at once, and it keeps its rules; a log with one of them broken by hand is found out."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from loadtests.collisions import findings as found
from loadtests.collisions.callers import MIX
from loadtests.collisions.history import History
from loadtests.collisions.judge import judge
from loadtests.collisions.server import binaries, open_server
from loadtests.collisions.stress import Outcome, collide
from tests.databases import Postgres
from tests.faults.host import unless_ci

SCRIPTS = files("gateway.log") / "sql" / "functions"
BOUND = 120.0  # seconds, which a machine has to be very busy for
CALLS = 1_200
TRIES = 5
HOUSEKEEPING = ("kills", "purge", "retire", "leases", "pack", "link")

# What is broken, and what its callers do besides creating, appending and reading, for it to matter often.
BREAKS = {
    "an append leaves a number out": (
        "append.sql", "SET tail = append_one.tail,", "SET tail = append_one.tail + 1,", ("append_alone",),
        {found.HOLES}),
    "a repetition is taken again": (
        "append.sql", "WHEN epoch = known_epoch AND seq <= known_seq THEN 'duplicate'", "", ("append_claimed",),
        {found.PRODUCERS}),
    "a closed stream takes events": (
        "append.sql", "WHEN closed THEN 'closed'", "", ("close",), {found.CLOSED}),
    "an open stream is retired": (
        "lifecycle.sql", "s.closed_at >= after AND s.closed_at < since", "s.created_at < since", (), {found.LOST}),
    "an end is judged by now()": (
        "append.sql", "WHEN s.expires_at <= clock_timestamp()", "WHEN s.expires_at <= now()", ("transact",),
        {found.RISEN}),
    "a TTL and a lease count from the call": (
        "transactional.sql", "IF num_nonnulls(ttl, lease) > 0 THEN", "IF false THEN", ("transact", "begin_run"),
        {found.LOST, found.LEASES}),
    "a fork has one event of its source's too many": (
        "lifecycle.sql", "least(u.until, at)", "u.until", ("fork",), {found.FORKS, found.HOLES, found.INVENTED}),
    "a page holds its events the wrong way round": (
        "pack.sql", "string_agg(w.data, separator)", "string_agg(w.data, separator ORDER BY w.seq DESC)", (),
        {found.ALTERED}),
    "an ack is taken after the lease was lost": (
        "subscriptions.sql", "(s.generation, s.generation, s.wake_id) IS DISTINCT FROM",
        "false AND (s.generation, s.generation, s.wake_id) IS DISTINCT FROM", ("claim",), {found.LINKS}),
}  # fmt: skip


def has_seen_all(history: History) -> bool:
    """However fast the machine is, so much was called, and each kind of disturbance came to its turn."""
    return len(history.calls) >= CALLS and all(history.done[what] for what in HOUSEKEEPING)


def holds(outcome: Outcome) -> None:
    assert outcome.findings.notes == [], outcome.text()
    assert has_seen_all(outcome.history), outcome.text()
    assert outcome.history.errors["40P01"] == 0


async def test_the_log_keeps_its_rules_when_sessions_collide(database_url: str) -> None:
    holds(await collide(database_url, 18, BOUND, enough=has_seen_all))


async def test_the_log_keeps_its_rules_on_postgres_15(tmp_path: Path) -> None:
    if binaries(15) is None:
        unless_ci("Postgres 15 is not installed")
    async with open_server(15, tmp_path / "data") as url:
        holds(await collide(url, 15, BOUND, enough=has_seen_all))


@pytest.mark.parametrize("broken", BREAKS)
async def test_a_log_that_is_broken_by_hand_is_found_out(postgres: Postgres, broken: str) -> None:
    script, right, wrong, deeds, kinds = BREAKS[broken]
    text = (SCRIPTS / script).read_text()
    assert right in text
    mix = {deed: MIX[deed] for deed in ("create", "append_batch", "read")} | dict.fromkeys(deeds, 40)

    def is_found_out(history: History) -> bool:
        return not kinds.isdisjoint(judge(history).counts)

    for seed in range(TRIES):  # what is found while they go on is not always confirmed by what all of them have seen
        async with postgres.database() as url:
            database = Postgres(url)
            await database.execute(text.replace(right, wrong))
            await database.execute((SCRIPTS / "waiting.sql").read_text())
            outcome = await collide(url, seed, BOUND, mix=mix, enough=is_found_out)
        if not kinds.isdisjoint(outcome.findings.counts):
            return
    pytest.fail(outcome.text())
