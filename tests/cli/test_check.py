"""`run-gateway check` as a process, at real databases that lack one thing each."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from tests.cli.commands import Ended, command, end, environment
from tests.databases import Postgres
from tests.faults.pooler import pgbouncer


def found(ended: Ended, verdict: str) -> list[str]:
    lines = [json.loads(line) for line in ended.out.splitlines()]
    return [line["text"] for line in lines if line["verdict"] == verdict]


async def test_a_machine_that_would_start_has_code_0(database_url: str) -> None:
    ended = await command("check", "--json", DATABASE_URL=database_url, PUBLIC_URL="https://runs.example")
    assert (ended.code, ended.err, found(ended, "fail")) == (0, "", [])
    said = " ".join(found(ended, "ok"))
    for words in ("is up to date", "LISTEN works at", "connections are left", "clock", "The database: Postgres"):
        assert words in said


async def test_nothing_is_changed(postgres: Postgres) -> None:
    name = f"bare_{uuid4().hex}"
    await postgres.execute(f"CREATE DATABASE {name}")
    try:
        ended = await command("check", "--json", DATABASE_URL=postgres.dsn(name))
        assert ended.code == 0
        assert "There is no schema run_gateway: serve would make it." in found(ended, "warn")
        strict = await command("check", "--json", DATABASE_URL=postgres.dsn(name), GATEWAY_MIGRATE="false")
        assert strict.code == 1
        assert "There is no schema run_gateway: run-gateway migrate makes it." in found(strict, "fail")
        connection = await asyncpg.connect(postgres.dsn(name))
        assert await connection.fetchval("SELECT to_regnamespace('run_gateway')") is None
        await connection.close()
    finally:
        await postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_an_older_schema_is_told(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("DELETE FROM run_gateway.migrations WHERE name LIKE 'functions%'")
    await connection.close()
    ended = await command("check", "--json", DATABASE_URL=database_url)
    assert any(text.startswith("The schema run_gateway lacks functions") for text in found(ended, "warn"))


async def test_an_encoding_that_lacks_characters_is_told(postgres: Postgres) -> None:
    name = f"win_{uuid4().hex}"
    await postgres.execute(f"CREATE DATABASE {name} ENCODING 'WIN1252' LOCALE 'C' TEMPLATE template0")
    try:
        ended = await command("check", "--json", DATABASE_URL=postgres.dsn(name))
        assert ended.code == 1
        assert any("WIN1252" in text for text in found(ended, "fail"))
    finally:
        await postgres.execute(f"DROP DATABASE {name}")


async def test_a_database_that_takes_no_writes_is_told(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await connection.close()
    ended = await command("check", "--json", DATABASE_URL=database_url)
    assert any("The database takes no writes" in text for text in found(ended, "warn"))


async def test_a_role_without_rights_or_room_is_told(postgres: Postgres, database_url: str) -> None:
    role = f"narrow_{uuid4().hex}"
    await postgres.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 5")
    try:
        parts = urlsplit(database_url)
        url = urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}"))
        ended = await command("check", "--json", DATABASE_URL=url)
        assert ended.code == 1
        assert any("this Machine wants up to 9: lower GATEWAY_POOL_SIZE" in text for text in found(ended, "fail"))
        assert any("another one has to migrate" in text for text in found(ended, "warn"))
    finally:
        await postgres.execute(f"DROP ROLE {role}")


async def test_a_pooler_that_hears_nothing_is_told(database_url: str) -> None:
    async with pgbouncer(database_url) as pooler:
        ended = await command("check", "--json", DATABASE_URL=pooler.url)
        assert any("LISTEN does not work" in text for text in found(ended, "warn"))
        strict = await command("check", "--json", DATABASE_URL=pooler.url, GATEWAY_REQUIRE_LISTEN="true")
        assert strict.code == 1
        direct = await command("check", "--json", DATABASE_URL=pooler.url, LISTEN_DATABASE_URL=database_url)
        (works,) = [text for text in found(direct, "ok") if "LISTEN works" in text]
        assert works.endswith(f"It does not at 127.0.0.1:{urlsplit(pooler.url).port}, which is no matter.")
        swapped = await command("check", "--json", DATABASE_URL=database_url, LISTEN_DATABASE_URL=pooler.url)
        assert any("that of" in text and "where it works" in text for text in found(swapped, "warn"))


async def test_an_address_that_is_taken_and_a_file_not_read_are_told(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DATABASE_URL=postgres://127.0.0.1/x\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "check", "--json", cwd=tmp_path, env=environment(PORT=str(port)),
            stdin=PIPE, stdout=PIPE, stderr=PIPE,
        )  # fmt: skip
        ended = await end(process)
    said = " ".join(found(ended, "warn"))
    assert f"127.0.0.1:{port} cannot be listened on" in said
    assert "The file .env is not read, and has DATABASE_URL" in said


@pytest.mark.parametrize(
    ("env", "verdict", "words"),
    [
        ({"HOST": "0.0.0.0"}, "fail", "would let anyone in"),
        ({"HOST": "0.0.0.0", "GATEWAY_ALLOW_ANONYMOUS": "true"}, "warn", "everyone who reaches this Machine"),
        ({"HOST": "192.0.2.1", "AUTH": "keys"}, "fail", "192.0.2.1:8080 cannot be listened on"),
        ({"AUTH": "keys", "GATEWAY_KEYS": "op:read:0123456789abcdef"}, "ok", "There are keys of op."),
        (
            {
                "AUTH": "jwt",
                "GATEWAY_JWT_JWKS_URL": "http://127.0.0.1:1/",
                "GATEWAY_JWT_ISSUER": "i",
                "GATEWAY_JWT_AUDIENCE": "a",
            },
            "warn",
            "The keys for JWTs cannot be had",
        ),
        ({"FORWARDED_ALLOW_IPS": "10.0.0.1"}, "ok", "X-Forwarded-Proto are believed of 10.0.0.1."),
        ({"AUTH": "keys"}, "fail", "neither GATEWAY_KEYS nor GATEWAY_KEYS_FILE holds a key"),
        ({"PUBLIC_URL": "https://runs.example"}, "warn", "FORWARDED_ALLOW_IPS is not set"),
        ({"GATEWAY_MAX_CONNECTIONS": "999999999"}, "warn", "files may be open"),
        ({"GATEWAY_MAX_READER": "5"}, "warn", "is GATEWAY_MAX_READERS meant?"),
        ({"DATABASE_URL": "postgres://u:hush@127.0.0.1:1/x"}, "fail", "x at 127.0.0.1:1 cannot be reached"),
    ],
)
async def test_what_is_wrong_is_one_sentence(env: dict[str, str], verdict: str, words: str) -> None:
    ended = await command("check", "--json", stdin=b"", **env)
    assert any(words in text for text in found(ended, verdict)), ended
    assert ended.code == (verdict == "fail")
    assert "hush" not in ended.out + ended.err
