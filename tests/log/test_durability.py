"""Commits are flushed whatever the role says, and the database's promises are told as they are."""

from __future__ import annotations

import asyncpg
import pytest

from gateway.log.durability import Durability, ask
from tests.log.rig import connected, opened

_SEEN = """
CREATE TABLE seen (setting text);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO public.seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
"""
_SEE = "CREATE CONSTRAINT TRIGGER see AFTER INSERT OR UPDATE OR DELETE ON run_gateway.{} DEFERRABLE INITIALLY DEFERRED"
UNTOLD = {
    "events": "with streams",
    "pages": "with streams",
    "producers": "with streams",
    "expiries": "with streams",
    "under_way": "with streams",
    "leases": "with runs, or done again by another Machine",
    "lease_looks": "a turn to look",
    "housekeeping": "a turn to look",
    "news_channel": "how Machines are told, decided once",
    "flue_silence": "a turn to look",
    "subscription_work": "hints, that are found again",
    "subscription_changes": "with subscriptions",
    "server": "which log it is, asked again on every connection",
    "migrations": "done again at the next start",
    "token_counts": "an estimate",
    "flue_processes": "asked of the application again",
    "recording_secret": "made once, by its migration",
}


async def watched(url: str, role: str) -> asyncpg.Connection[asyncpg.Record]:
    """Has each commit note its setting. Sessions of the database begin with `role` from now on."""
    look = await asyncpg.connect(url)
    await look.execute(_SEEN)
    for table in ("streams", "runs", "subscriptions"):
        await look.execute(_SEE.format(table) + " FOR EACH ROW EXECUTE FUNCTION see()")
    await look.execute(
        f"ALTER DATABASE {await look.fetchval('SELECT current_database()')} SET synchronous_commit = {role}"
    )
    return look


@pytest.mark.parametrize(("role", "expected"), [("off", "on"), ("local", "local"), ("remote_apply", "remote_apply")])
async def test_what_is_acknowledged_is_flushed(database_url: str, role: str, expected: str) -> None:
    look = await watched(database_url, role)
    async with opened(database_url) as log, connected(database_url) as agent:
        for path in ("a", "b", "runs/1"):
            await log.create(path)
        await log.append("a", b"1")
        await log.append("a", b"2", close=True)
        await log.append("b", *(b"%d" % n for n in range(200)))
        await log.lifecycle.delete("b")
        await agent.execute("SELECT run_gateway.append('runs/1', '{}')")
        await agent.fetchval("SELECT * FROM run_gateway.cancel_run('m1', 'runs/1', NULL)")
    assert {row["setting"] for row in await look.fetch("SELECT setting FROM seen")} == {expected}
    await look.close()


async def test_each_table_that_clients_are_told_about_is_flushed(database_url: str) -> None:
    async with connected(database_url) as look:
        names = {
            row["relname"]
            for row in await look.fetch(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'run_gateway'::regnamespace"
                " AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = pg_class.oid AND tgname = 'be_durable')"
            )
        }
    assert names == set(UNTOLD)


async def test_a_database_tells_what_it_promises(database_url: str) -> None:
    async with connected(database_url) as look:
        promise = await ask(look)
        assert promise.system_identifier and promise.timeline
        assert promise.version in str(promise)
        await look.execute("SET synchronous_commit = off")
        assert (await ask(look)).warnings[-1].startswith("The database has synchronous_commit off")


def test_a_database_that_may_lose_commits_is_warned_of() -> None:
    assert not Durability("18", "on", "", True, True, "1", 1).warnings
    assert [line.split(":")[0] for line in Durability("18", "on", "", False, False, None, None).warnings] == [
        "The database runs with fsync off",
        "The database runs with full_page_writes off",
    ]
