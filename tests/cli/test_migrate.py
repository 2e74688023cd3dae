"""`run-gateway migrate` as a process."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx

from gateway.embedded import EmbeddedPostgres
from gateway.log.migrations import functions, migrate, names
from tests.cli.commands import command, running
from tests.databases import Postgres
from tests.machines import Machine
from tests.manual import manual


async def test_migrate_prints_what_it_applied_and_then_nothing_to_do(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path) as postgres:
        first = await command("migrate", DATABASE_URL=postgres.dsn)
        again = await command("migrate", "--database-url", postgres.dsn)
    assert first == (0, "".join(f"Applied {name}\n" for name in names()), "")
    assert again == (0, "Nothing to apply: the schema is up to date\n", "")


async def test_of_several_that_start_at_once_one_applies(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path) as postgres:
        ended = await asyncio.gather(*(command("migrate", DATABASE_URL=postgres.dsn) for _ in range(4)))
    assert [one.code for one in ended] == [0] * 4
    assert sum("Applied" in one.out for one in ended) == 1


async def test_without_a_database_url_the_embedded_one_is_migrated(tmp_path: Path) -> None:
    ended = await command("migrate", "--data-dir", str(tmp_path))
    assert (ended.code, ended.out.splitlines()[1:]) == (0, [f"Applied {name}" for name in names()])


async def test_a_database_that_lacks_most_characters_is_refused(postgres: Postgres) -> None:
    name = f"win_{uuid4().hex}"
    await postgres.execute(f"CREATE DATABASE {name} ENCODING 'WIN1252' LOCALE 'C' TEMPLATE template0")
    try:
        for what in ("migrate", "serve"):
            ended = await command(what, DATABASE_URL=postgres.dsn(name))
            assert ended.code == 1
            assert f"{name} at" in ended.err and "has the encoding WIN1252" in ended.err
    finally:
        await postgres.execute(f"DROP DATABASE {name}")


async def test_old_rules_for_strings_are_no_hindrance(postgres: Postgres) -> None:
    name = f"old_{uuid4().hex}"
    await postgres.execute(f"CREATE DATABASE {name}")
    try:
        await postgres.execute(f"ALTER DATABASE {name} SET standard_conforming_strings = off")
        assert (await command("migrate", DATABASE_URL=postgres.dsn(name))).code == 0
        async with (
            Machine.start(postgres.dsn(name)) as machine,
            httpx.AsyncClient(base_url=machine.url, timeout=60) as http,
        ):
            event = {"type": "run_end", "result": "a\\b'c\x00"}
            assert (await http.post("/runs", json={"id": "r", "lease": 60})).status_code == 201
            assert (await http.post("/runs/r", json=event, headers={"stream-closed": "true"})).status_code == 204
            assert (await http.get("/runs/r?offset=-1")).json() == [event]
            assert (await http.get("/runs/r?meta")).json()["result"] == "a\\b'c\x00"
    finally:
        await postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_serve_without_migrating_refuses_an_older_schema(
    tmp_path: Path,
) -> None:
    async with EmbeddedPostgres(tmp_path) as postgres:
        bare = await command("serve", "--no-migrate", "--port", "0", DATABASE_URL=postgres.dsn)
        await migrate(postgres.dsn)
        connection = await asyncpg.connect(postgres.dsn)
        await connection.execute("DELETE FROM run_gateway.migrations WHERE name LIKE 'functions%'")
        old = await command("serve", "--no-migrate", "--port", "0", DATABASE_URL=postgres.dsn)
        await connection.execute(
            "INSERT INTO run_gateway.migrations (name) VALUES ('functions-9999'), ('9999_new.sql')"
        )
        await connection.close()
        async with running("serve", "--no-migrate", "--port", "0", DATABASE_URL=postgres.dsn) as newer:
            assert newer.stdout is not None
            assert (await newer.stdout.readline()).startswith(b"Listening on ")
    assert (bare.code, old.code) == (1, 1)
    assert bare.err.endswith(" has no schema run_gateway: `run-gateway migrate` makes it\n")
    assert old.err.endswith(f" is older than this program: `run-gateway migrate` applies {functions()}\n")


async def test_a_role_with_the_rights_that_the_readme_grants_can_serve(postgres: Postgres) -> None:
    role = f"serving_{uuid4().hex}"
    await postgres.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    try:
        async with postgres.database() as url:
            for grant in re.findall(r"```sql\n(GRANT .*?)```", manual("log"), re.DOTALL):
                await Postgres(url).execute(grant.replace(" serving;", f" {role};"))
            await Postgres(url).execute(
                "CREATE TABLE run_gateway.of_a_later_version (id bigint GENERATED ALWAYS AS IDENTITY)"
            )
            serving = url.replace("postgres@", f"{role}:x@")
            env = {"GATEWAY_MIGRATE": "false"}
            async with (
                Machine.start(serving, env=env) as machine,
                httpx.AsyncClient(base_url=machine.url, timeout=60) as http,
            ):
                assert (await http.post("/runs", json={"id": "1", "lease": 1})).status_code == 201
                assert (await http.post("/runs/1", json=[1])).status_code == 204
                assert (await http.post("/runs/1/cancel")).status_code == 202
                record = (await http.get("/runs/1?meta&wait=30")).json()
                assert record["error"]["name"] == "ProducerLost"
                assert (await http.delete("/runs/1")).status_code == 204
                webhook = {"type": "webhook", "pattern": "*", "webhook": {"url": "http://127.0.0.1:9/"}}
                made = await http.put("/v1/stream/__ds/subscriptions/s", json=webhook)
                assert made.status_code == 201
            await Postgres(serving).execute("INSERT INTO run_gateway.of_a_later_version DEFAULT VALUES")
            for command_name in ("rotate-token-key", "rotate-webhook-key"):
                assert (await command(command_name, DATABASE_URL=serving)).code == 0
            refused = await command("migrate", DATABASE_URL=serving)
            assert refused.out == "Nothing to apply: the schema is up to date\n"
    finally:
        await postgres.execute(f"DROP ROLE {role}")
