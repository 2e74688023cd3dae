"""Notifications of whoever has the database: none is believed that does not come by what only log writers know."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from gateway.log.migrations import migrate
from tests.databases import Postgres
from tests.log.rig import connected
from tests.servers import PATIENCE, Client, Running, client_of, following, payloads, serving, until

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

JSON = {"content-type": "application/json"}
NEVER = 86_400.0
CHANNEL = "run_gateway"
PING = "{machine}\n\n0\n0\nping 1"


@pytest.fixture(scope="module")
def machines(database_of_all: str) -> Iterator[list[Running]]:
    """Two that never look by themselves, so that what readers hear of others came by a notification."""
    with ExitStack() as stack:
        yield [stack.enter_context(serving(database_of_all, "direct", sweep_interval=NEVER, heartbeat=1)) for _ in "ab"]


@pytest_asyncio.fixture
async def a(machines: list[Running]) -> AsyncIterator[Client]:
    async with client_of(machines[0]) as client:
        yield client


@pytest_asyncio.fixture
async def b(machines: list[Running]) -> AsyncIterator[Client]:
    async with client_of(machines[1]) as client:
        yield client


@asynccontextmanager
async def of_role(url: str, *rights: str) -> AsyncIterator[Connection]:
    """A session of a role that has no rights but these, each a GRANT without its TO."""
    role = f"role_{uuid4().hex}"
    async with connected(url) as owner, connected(url) as session:
        await owner.execute(f"CREATE ROLE {role}")
        try:
            for right in rights:
                await owner.execute(f"GRANT {right} TO {role}")
            await session.execute(f"SET ROLE {role}")
            yield session
        finally:
            await session.execute("RESET ROLE")
            await owner.execute(f"DROP OWNED BY {role}")
            await owner.execute(f"DROP ROLE {role}")


@pytest.fixture
def id() -> str:
    return uuid4().hex


SCHEMA = "USAGE ON SCHEMA run_gateway"
TABLES = ("streams", "events", "runs", "producers", "leases", "pages", "expiries", "under_way")
WRITER = (SCHEMA, f"SELECT, INSERT, UPDATE, DELETE ON {', '.join(f'run_gateway.{table}' for table in TABLES)}")
FORGED = {
    "an event": "{path}\n2\n2\nopen\n" + '{"forged":1}',
    "an event and the end": "{path}\n2\n2\nclosed\n" + '{"forged":1}',
    "an end": "{path}\n2\n1\nclosed\n",
    "an end without events": "{path}\n2\n1\nclosed",
    "an event far ahead": "{path}\n2\n9000000000000000000\nopen\n" + '{"forged":1}',
    "a deletion": "{path}\n0\n0\ndeleted",
    "a creation": "{path}\n0\n0\nopen",
    "nonsense": "{path}\n\n\n",
}


@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_notification_shows_nothing_and_costs_nothing(
    machines: list[Running], a: Client, b: Client, id: str, database_of_all: str, name: str
) -> None:
    await a("PUT", f"/runs/{id}", headers=JSON, content=b'["first"]')
    listeners = [machine.app._log.listener for machine in machines]
    url = f"/runs/{id}?offset=-1&live=sse"
    async with (
        following(a, url) as here,
        following(b, url) as there,
        of_role(database_of_all) as anybody,
    ):
        for reader in (here, there):
            await reader.until(lambda reading: payloads(reading) == ["first"])
        before = [listener.hints for listener in listeners]
        for machine in ("", "=", "x", f"={machines[1].app.machine}x"):
            news = f"{machine}\n" + FORGED[name].replace("{path}", f"runs/{id}")
            await anybody.execute("SELECT pg_notify($1, $2)", CHANNEL, news)
        await until(lambda: all(now.hints >= then + 4 for now, then in zip(listeners, before, strict=True)))
        await a("POST", f"/runs/{id}", headers=JSON | {"stream-closed": "true"}, content=b'"second"')
        for reader in (here, there):
            assert payloads(await reader.end()) == ["first", "second"]


async def test_only_who_may_write_events_is_told_the_channel(database_of_all: str) -> None:
    async with connected(database_of_all) as owner:
        secret = await owner.fetchval("SELECT name FROM run_gateway.channel")
    assert secret.startswith(CHANNEL) and len(secret) > 40
    reads = "SELECT ON run_gateway.streams, run_gateway.events"
    peek = (
        "CREATE FUNCTION pg_temp.peek(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001"
        " AS $$ BEGIN RAISE EXCEPTION '%', $1; END $$"
    )
    for rights, status in (((), "refused"), ((SCHEMA,), "nothing"), ((SCHEMA, reads), "nothing"), (WRITER, "told")):
        async with of_role(database_of_all, *rights) as role:
            if status == "refused":
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await role.fetch("SELECT * FROM run_gateway.channel")
            else:
                found = await role.fetch("SELECT * FROM run_gateway.channel")
                assert [row["name"] for row in found] == ([secret] if status == "told" else [])
            if status == "nothing":
                await role.execute(peek)
                assert await role.fetch("SELECT * FROM run_gateway.channel WHERE pg_temp.peek(name)") == []
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await role.fetch("SELECT run_gateway.listen()")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await role.fetch("SELECT * FROM run_gateway.news_channel")


async def test_default_privileges_do_not_give_the_channel_away(postgres: Postgres) -> None:
    name, role = f"test_{uuid4().hex}", f"role_{uuid4().hex}"
    await postgres.execute(f"CREATE DATABASE {name}")
    try:
        async with connected(postgres.dsn(name)) as owner:
            await owner.execute(f"CREATE ROLE {role}")
            await owner.execute(f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {role}, PUBLIC")
            await migrate(postgres.dsn(name))
            await owner.execute(f"GRANT {SCHEMA} TO {role}")
            await owner.execute(f"SET ROLE {role}")
            assert await owner.fetch("SELECT FROM run_gateway.streams") == []
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await owner.fetch("SELECT * FROM run_gateway.news_channel")
            assert await owner.fetch("SELECT * FROM run_gateway.channel") == []
            await owner.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")
    finally:
        await postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_no_statement_shows_the_secret_channel_to_other_users(
    machines: list[Running], database_of_all: str
) -> None:
    await until(lambda: all(machine.app._log.listens for machine in machines))
    async with connected(database_of_all) as owner:
        secret = await owner.fetchval("SELECT name FROM run_gateway.channel")
        shown = await owner.fetch("SELECT query FROM pg_stat_activity WHERE application_name = 'run-gateway'")
    assert shown
    assert not any(secret in row["query"] for row in shown)


async def test_a_listener_on_the_public_channel_hears_no_event(
    a: Client, b: Client, id: str, database_of_all: str
) -> None:
    heard: list[str] = []
    await a("PUT", f"/runs/{id}", headers=JSON)
    async with of_role(database_of_all) as anybody, of_role(database_of_all, *WRITER) as app:
        await anybody.add_listener(CHANNEL, lambda *message: heard.append(str(message[-1])))
        await anybody.execute("SELECT pg_notify($1, $2)", CHANNEL, PING.format(machine="old"))
        async with following(b, f"/runs/{id}?offset=-1&live=sse") as reader:
            await a("POST", f"/runs/{id}", headers=JSON, content=b'"a secret"')
            await app.execute("SELECT run_gateway.append($1, $2)", f"runs/{id}", '"a secret"')
            await a("POST", f"/runs/{id}/cancel", json={"reason": "a secret"})
            await reader.until(lambda reading: payloads(reading) == ["a secret"] * 2)
        async with asyncio.timeout(PATIENCE):
            while not any("/control" in each for each in heard):
                await anybody.execute("SELECT 1")
    assert any(f"runs/{id}\n2\n2\nopen" in each for each in heard), "that something has come is no secret"
    assert not any("a secret" in each for each in heard)


async def test_an_applications_role_notifies_as_fast_as_a_machine(
    machines: list[Running], a: Client, b: Client, id: str, database_of_all: str
) -> None:
    await a("PUT", f"/runs/{id}", headers=JSON)
    url = f"/runs/{id}?offset=-1&live=sse"
    async with of_role(database_of_all, *WRITER) as app, following(a, url) as here, following(b, url) as there:
        for reader in (here, there):
            await reader.until(lambda reading: len(reading.events) > 0)
        reads = [machine.app._log.reader.reads for machine in machines]
        for number in range(20):
            await app.execute("SELECT run_gateway.append($1, $2)", f"runs/{id}", str(number))
        for reader in (here, there):
            await reader.until(lambda reading: payloads(reading) == list(range(20)))
        assert [machine.app._log.reader.reads for machine in machines] == reads, "the events came with the news"
        assert await app.fetchval("SELECT run_gateway.close($1)", f"runs/{id}")
        for reader in (here, there):
            await reader.end()


async def test_machines_of_this_version_and_the_last_hear_each_other(
    machines: list[Running], a: Client, b: Client, id: str, database_of_all: str
) -> None:
    """One of the version before knows one channel, and calls by its own name the functions that are there."""
    heard: list[str] = []
    listener = machines[0].app._log.listener
    await a("PUT", f"/runs/{id}", headers=JSON)
    async with connected(database_of_all) as before:

        async def told(what: str) -> None:
            async with asyncio.timeout(PATIENCE):
                while not any(what in each for each in heard):
                    await before.execute("SELECT 1")

        async with following(b, f"/runs/{id}?offset=-1&live=sse") as reader:
            await until(lambda: listener.others.name.startswith("="))  # there is none, as far as this one has heard
            await before.add_listener(CHANNEL, lambda *message: heard.append(str(message[-1])))
            await before.execute("SELECT pg_notify($1, $2)", CHANNEL, PING.format(machine="before"))
            await told(PING.format(machine=f"={machines[0].app.machine}")[:-1])  # it is not alone, and is told so
            await told(PING.format(machine=f"={machines[1].app.machine}")[:-1])
            await until(lambda: not listener.others.name.startswith("="))
            await a("POST", f"/runs/{id}", headers=JSON, content=b'"of this"')
            await told(f"{machines[0].app.machine}\nruns/{id}\n1\n1\nopen")
            reads = machines[1].app._log.reader.reads
            await before.execute(
                "CALL run_gateway.append($1, $2, $3, $4, $5, NULL, NULL, NULL)",
                "before", f"runs/{id}", "application/json", [b'"of before"'], '"of before"',
            )  # fmt: skip
            await reader.until(lambda reading: payloads(reading) == ["of this", "of before"])
            assert machines[1].app._log.reader.reads == reads
            await told(f"before\nruns/{id}\n2\n2\nopen")  # others like it are told as well
            await until(lambda: listener.others.name.startswith("="))  # it has not been heard of for three heartbeats
            heard.clear()
            await a("POST", f"/runs/{id}", headers=JSON, content=b'"alone"')
            await reader.until(lambda reading: len(payloads(reading)) == 3)
            await told("ping")
    assert not any(f"runs/{id}" in each for each in heard), "nobody is left who would hear it there"


async def test_claims_to_be_an_older_machine_are_kept_up_to_a_limit(
    machines: list[Running], database_of_all: str
) -> None:
    listener = machines[0].app._log.listener
    async with of_role(database_of_all) as anybody:
        hints = listener.hints
        for number in range(5):
            await anybody.execute(
                "SELECT count(pg_notify($1, replace($2, 'N', n::text))) FROM generate_series($3::int, $3::int + 99) n",
                CHANNEL, PING.format(machine="N"), number * 100,
            )  # fmt: skip
        await until(lambda: listener.hints >= hints + 500)
        assert 0 < len(listener.others._before) <= 32
