"""What would stop a deploy, or have a Machine do less than it could: asked before one is started. Changes nothing.

Each question has one answer for a person: what is so, and what to do where that is not enough.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Final, Literal, NamedTuple

from gateway.fanout.uring import NoUring, Uring
from gateway.flue import schema as flue
from gateway.flue.errors import Unfit
from gateway.log import durability
from gateway.log.connect import FAULTS, LogConnection, connect, hears
from gateway.log.listen_address import host_of, listening_addresses
from gateway.log.migrations import missing, names
from gateway.process.checks import check
from gateway.process.database import CONNECT_TIMEOUT, ENCODINGS, name
from gateway.process.exit_codes import Failure
from gateway.settings import Settings
from gateway.wording import one_line

CLOCKS: Final = 1.0
"""Seconds that this clock may differ from the database's without a word: tokens and JWTs are judged by this one."""

# A role that may not see others' sessions sees that they are there.
_ROOM: Final = """
    SELECT current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
           - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::integer + 1 AS room,
           (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS limited
"""
_RIGHTS: Final = """
    SELECT CASE WHEN s.nspname IS NULL THEN has_database_privilege(current_database(), 'CREATE')
                ELSE pg_has_role(s.nspowner, 'USAGE') END
      FROM (SELECT) one LEFT JOIN pg_namespace s ON s.nspname = 'run_gateway'
"""


class Finding(NamedTuple):
    """One answer. `fail`: `serve` would refuse to start, or not work; `warn`: it would do less than it could."""

    verdict: Literal["ok", "warn", "fail"]
    text: str


async def inspect(settings: Settings) -> AsyncIterator[Finding]:
    """Every finding about these settings on this host, the database's last."""
    for finding in (*_settings(settings), *_host(settings)):
        yield finding
    if settings.database_url is None:
        yield Finding(
            "warn", "DATABASE_URL is not set: serve would keep its data in an embedded Postgres, on this host."
        )
        return
    async for finding in _database(settings, settings.database_url):
        yield finding


def _settings(settings: Settings) -> Iterator[Finding]:
    try:
        check(settings)
    except Failure as error:
        yield Finding("fail", f"{error.message}.")
    if settings.open_to_all:
        yield Finding("fail", f"HOST={settings.host} would let anyone in: set AUTH, or GATEWAY_ALLOW_ANONYMOUS=true.")
    elif settings.auth == "none" and settings.allow_anonymous:
        yield Finding("warn", "AUTH is none: everyone who reaches this Machine may read, write and delete.")
    else:
        yield Finding("ok", f"AUTH is {settings.auth}, HOST {settings.host}.")
    if settings.public_url is None:
        yield Finding("warn", "PUBLIC_URL is not set: links name the host that a request was sent to.")
    if settings.public_url is not None and "FORWARDED_ALLOW_IPS" not in os.environ:
        yield Finding(
            "warn", "FORWARDED_ALLOW_IPS is not set: behind a proxy, limits by address count the proxy as one."
        )


def _host(settings: Settings) -> Iterator[Finding]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = sys.maxsize if most == resource.RLIM_INFINITY else most
    wanted = settings.max_connections + settings.pool_size
    if most < wanted:
        yield Finding("warn", f"Only {most} files may be open, for GATEWAY_MAX_CONNECTIONS={settings.max_connections}.")
    else:
        yield Finding("ok", f"{most} files may be open." if most < sys.maxsize else "Any number of files may be open.")
    if settings.io_uring:
        try:
            Uring().close()
        except NoUring as error:
            yield Finding("warn", f"io_uring cannot be used ({error}): many readers of one run cost more.")
        else:
            yield Finding("ok", "io_uring can be used.")


async def _database(settings: Settings, url: str) -> AsyncIterator[Finding]:
    try:
        connection = await connect(url, timeout=CONNECT_TIMEOUT, command_timeout=CONNECT_TIMEOUT)
    except (*FAULTS, ValueError) as error:
        yield Finding("fail", f"The database {name(url)} cannot be reached: {one_line(error)}.")
        return
    try:
        for ask in (_server, _clock, _rights, _room, *([_flue] if settings.flue or settings.flue_agents else [])):
            try:
                yield await ask(connection, settings)
            except FAULTS as error:
                yield Finding("fail", f"The database refuses a question: {one_line(error)}.")
        yield await _schema(settings, url)
        yield await _listen(settings, url)
    finally:
        connection.terminate()


async def _server(connection: LogConnection, _: Settings) -> Finding:
    encoding = connection.get_settings().server_encoding
    if encoding not in ENCODINGS:
        return Finding("fail", f"The database has the encoding {encoding}; events need one with ENCODING 'UTF8'.")
    promise = await durability.ask(connection)
    return (
        Finding("warn", " ".join(promise.warnings)) if promise.warnings else Finding("ok", f"The database: {promise}.")
    )


async def _clock(connection: LogConnection, _: Settings) -> Finding:
    before = time.time()
    theirs = (await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")) or 0.0
    ahead = (before + time.time()) / 2 - theirs
    if abs(ahead) > CLOCKS:
        return Finding("warn", f"This clock is {ahead:+.1f} s ahead of the database's: tokens are judged by this one.")
    return Finding("ok", "This clock and the database's agree.")


async def _flue(connection: LogConnection, settings: Settings) -> Finding:
    try:
        if settings.flue:
            await flue.check(connection, ends_runs=settings.flue_orphan_after is not None)
        else:
            await flue.check_agents(connection)
    except Unfit as error:
        return Finding("fail", f"The database cannot be used as a Flue app's: {error}.")
    return Finding("ok", "The tables of the Flue app can be used.")


async def _rights(connection: LogConnection, _: Settings) -> Finding:
    if await connection.fetchval(_RIGHTS):
        return Finding("ok", "The role may make and change the schema run_gateway.")
    return Finding("warn", "The role may not change the schema run_gateway: another one has to migrate.")


async def _room(connection: LogConnection, settings: Settings) -> Finding:
    row = await connection.fetchrow(_ROOM)
    assert row is not None, "such a statement gives one row"
    room = row["room"] if row["limited"] < 0 else min(row["room"], row["limited"])
    wanted = settings.workers * (settings.pool_size + 1)
    told = f"{room} connections are left; this Machine wants up to {wanted}"
    if room < wanted:
        return Finding("fail", f"{told}: lower GATEWAY_POOL_SIZE or GATEWAY_WORKERS, or use a pooler.")
    return Finding("ok", f"{told}.")


async def _schema(settings: Settings, url: str) -> Finding:
    try:
        lacking = await missing(url)
    except FAULTS as error:
        return Finding("fail", f"The schema cannot be read: {one_line(error)}.")
    if not lacking:
        return Finding("ok", "The schema run_gateway is up to date.")
    would = "serve would make it" if settings.migrate else "run-gateway migrate makes it"
    verdict: Literal["warn", "fail"] = "warn" if settings.migrate else "fail"
    if lacking == names():
        return Finding(verdict, f"There is no schema run_gateway: {would}.")
    return Finding(verdict, f"The schema run_gateway lacks {', '.join(lacking)}: {would}.")


async def _listen(settings: Settings, url: str) -> Finding:
    tried = []
    for address in listening_addresses(url, settings.listen_database_url):
        tried.append(host_of(address))
        try:
            connection = await connect(address, timeout=CONNECT_TIMEOUT, command_timeout=CONNECT_TIMEOUT)
        except (*FAULTS, ValueError):
            continue
        try:
            if await hears(connection, lambda: connect(url, timeout=CONNECT_TIMEOUT)):
                return Finding("ok", f"LISTEN works at {host_of(address)}: events of other Machines arrive at once.")
        except FAULTS:
            continue
        finally:
            connection.terminate()
    return Finding(
        "fail" if settings.require_listen else "warn",
        f"LISTEN does not work at {' nor '.join(tried)}: the log would be polled. Set LISTEN_DATABASE_URL to the direct"
        " address of the database.",
    )
