"""Addresses of databases as providers, frameworks and other clients write them."""

from __future__ import annotations

import logging
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from gateway.log.address import read
from gateway.log.connect import connect
from gateway.process import database
from gateway.settings import load

HOST = "postgres://u:p@host:5432/db"

# Who writes it, what it says, and what of it is left out. Of everything else nothing is lost.
SPELLINGS = [
    ("plain", "", ()),
    ("libpq, encrypted", "?sslmode=require", ()),
    ("libpq, names itself", "?application_name=me&fallback_application_name=psql", ("fallback_application_name",)),
    ("libpq, impatient", "?connect_timeout=5", ()),
    ("libpq, keepalives", "?keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=3", ()),
    ("libpq, a time-out of TCP", "?tcp_user_timeout=5000", ()),
    ("libpq, no GSS", "?gssencmode=disable", ("gssencmode",)),
    ("libpq, the system's authorities", "?sslmode=verify-full&sslrootcert=system", ()),
    ("libpq, any host", "?target_session_attrs=any&load_balance_hosts=random", ("load_balance_hosts",)),
    ("libpq, an encoding", "?client_encoding=utf8", ("client_encoding",)),
    ("libpq, a setting", "?options=-c%20work_mem%3D8MB", ()),
    ("Neon", "?sslmode=require&channel_binding=require", ("channel_binding",)),
    ("Neon, for old clients", "?options=endpoint%3Dep-1&sslmode=require", ()),
    ("Supabase", "?pgbouncer=true&connection_limit=1", ("pgbouncer", "connection_limit")),
    ("Supabase at Vercel", "?sslmode=require&supa=base-pooler.x", ("supa",)),
    ("Prisma", "?schema=public&pool_timeout=0&socket_timeout=3", ("schema", "pool_timeout", "socket_timeout")),
    ("Prisma, unverified", "?sslmode=require&sslaccept=accept_invalid_certs", ()),
    ("Prisma, verified", "?sslmode=require&sslaccept=strict", ()),
    ("Rails", "?pool=5&prepared_statements=false&encoding=unicode", ("pool", "prepared_statements", "encoding")),
    ("node-postgres, encrypted", "?ssl=true", ()),
    ("node-postgres, unverified", "?sslmode=no-verify", ()),
    ("node-postgres 9", "?uselibpqcompat=true&sslmode=require", ("uselibpqcompat",)),
    ("SQLAlchemy with asyncpg", "?ssl=require&prepared_statement_cache_size=0", ("prepared_statement_cache_size",)),
    ("pgx", "?pool_max_conns=10&default_query_exec_mode=exec", ("pool_max_conns", "default_query_exec_mode")),
    ("JDBC", "?ssl=false&prepareThreshold=0&ApplicationName=x", ("prepareThreshold", "ApplicationName")),
    ("an empty option", "?sslmode=&application_name=", ()),
]


@pytest.mark.parametrize(("who", "query", "left_out"), SPELLINGS)
def test_each_spelling_is_taken_as_it_is_meant(who: str, query: str, left_out: tuple[str, ...]) -> None:
    url = HOST + query
    assert load(database_url=url).database_url == url
    address = read(url)
    assert address.left_out == left_out
    rest = parse_qs(urlsplit(address.dsn).query)
    assert set(rest) <= {"sslmode", "options", "target_session_attrs"}, "the driver would send the rest to the server"
    assert urlsplit(address.dsn)[:3] == ("postgres", "u:p@host:5432", "/db")


@pytest.mark.parametrize("scheme", ["postgresql+asyncpg", "postgresql+psycopg2", "postgres+pg8000", "postgresql"])
def test_the_name_of_a_driver_is_left_out(scheme: str) -> None:
    url = f"{scheme}://u:p@host/db"
    assert load(database_url=url).database_url == url
    assert read(url).dsn == f"{scheme.partition('+')[0]}://u:p@host/db"


@pytest.mark.parametrize(
    ("query", "mode", "trust"),
    [
        *((f"sslmode={mode}", mode, "as sslmode says") for mode in ("disable", "allow", "prefer", "require")),
        *((f"sslmode={mode}", mode, "as sslmode says") for mode in ("verify-ca", "verify-full")),
        ("sslmode=no-verify", "require", "nobody is verified"),
        ("ssl=no-verify", "require", "nobody is verified"),
        ("ssl=1", "require", "as sslmode says"),
        ("ssl=false", "disable", "as sslmode says"),
        ("ssl=verify-full", "verify-full", "as sslmode says"),
        ("sslmode=disable&ssl=true", "disable", "as sslmode says"),
        ("sslrootcert=system", "verify-full", "the system's authorities"),
        ("sslmode=require&sslaccept=strict", "verify-full", "the system's authorities"),
        ("sslmode=disable&sslaccept=strict", "disable", "as sslmode says"),
    ],
)
def test_encryption_is_never_weaker_than_it_says(query: str, mode: str, trust: str) -> None:
    address = read(f"{HOST}?{query}")
    assert parse_qs(urlsplit(address.dsn).query) == {"sslmode": [mode]}
    assert address.trust == trust


def test_times_and_names_are_used() -> None:
    address = read(f"{HOST}?connect_timeout=1&application_name=agents&keepalives_idle=7&tcp_user_timeout=0")
    assert address.connect_timeout == 2  # libpq waits no less
    assert address.application_name == "agents"
    assert address.keepalive == {"TCP_KEEPIDLE": 7}
    assert read(f"{HOST}?keepalives=0").keepalive is None
    assert read(f"{HOST}?connect_timeout=0").connect_timeout is None
    with pytest.raises(ValueError, match="connect_timeout is no number"):
        read(f"{HOST}?connect_timeout=soon")


async def test_a_real_server_takes_what_is_passed_on(database_url: str) -> None:
    url = database_url.replace("postgresql://", "postgresql+asyncpg://").replace("postgres://", "postgres+asyncpg://")
    join = "&" if "?" in url else "?"
    options = (
        "application_name=agents&channel_binding=prefer&connect_timeout=9&schema=public&options=-c%20work_mem%3D8MB"
    )
    connection = await connect(f"{url}{join}{options}", timeout=10)
    try:
        assert await connection.fetchval("SELECT current_setting('application_name')") == "agents"
        assert await connection.fetchval("SELECT current_setting('work_mem')") == "8MB"
        with pytest.raises(asyncpg.UndefinedObjectError, match="misspelled"):
            await connect(f"{url}{join}misspelled=1", timeout=10)
    finally:
        await connection.close()


async def test_what_is_left_out_is_named_once(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    url = f"{database_url}{'&' if '?' in database_url else '?'}pgbouncer=true&pool=5"
    async with database.database(load(database_url=url)):
        pass
    assert [record.getMessage() for record in caplog.records] == [
        "The address of the database has options that mean nothing here: pgbouncer, pool."
    ]
