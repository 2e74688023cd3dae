"""Looks for what would stop a deploy, or have a Machine do less than it could, before one is started. Changes nothing.

Each question has one answer for a person: what is so, and what to do where that is not enough.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Final, Literal, NamedTuple
from urllib.parse import urlsplit

import httpx

from gateway.auth.keys import Keys
from gateway.fanout.uring import NoUring, Uring
from gateway.flue import schema as flue
from gateway.flue.errors import Unfit
from gateway.log import durability
from gateway.log.connect import FAULTS, LogConnection, connect, hears
from gateway.log.listen_address import host_of, listening_addresses
from gateway.log.migrations import missing, names
from gateway.log.replica import STATE, WRITTEN
from gateway.process.checks import check
from gateway.process.database import CONNECT_TIMEOUT, name, unfit
from gateway.process.exit_codes import Failure
from gateway.settings import BadSetting, Settings
from gateway.wording import one_line

NAMED: Final = 10  # keys that are named
BEHIND: Final = 3.0
"""Seconds that a replica has to come to what the primary has written."""

_PRIMARY: Final = "all would be read at the primary"
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
    """An answer. `fail`: `serve` would refuse to start, or not work; `warn`: it would do less than it could."""

    verdict: Literal["ok", "warn", "fail"]
    text: str


async def inspect(settings: Settings) -> AsyncIterator[Finding]:
    """Every finding about these settings on this host, the database's last."""
    for finding in (*_settings(settings), *_host(settings)):
        yield finding
    if settings.jwt_jwks_url is not None:
        yield await _issuer(settings.jwt_jwks_url)
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
    yield from _keys(settings)
    trusted = os.environ.get("FORWARDED_ALLOW_IPS")
    if settings.public_url is None:
        yield Finding("warn", "PUBLIC_URL is not set: links name the host that a request was sent to.")
    else:
        yield Finding("ok", f"PUBLIC_URL is {settings.public_url}.")
    if trusted is not None:
        whom = trusted.replace("*", "everyone")
        yield Finding("ok", f"X-Forwarded-For and X-Forwarded-Proto are believed of {whom}.")
    elif settings.public_url is not None:
        yield Finding(
            "warn", "FORWARDED_ALLOW_IPS is not set: behind a proxy, limits by address count the proxy as one."
        )


def _keys(settings: Settings) -> Iterator[Finding]:
    if "keys" not in settings.auth:
        return
    try:
        keys = Keys(settings.keys, settings.keys_file)
    except BadSetting:
        return  # which is told already
    more = " and others" if len(keys.names) > NAMED else ""
    yield Finding("ok", f"There are keys of {', '.join(keys.names[:NAMED])}{more}.")


def _host(settings: Settings) -> Iterator[Finding]:
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as asked:
        asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            asked.bind((settings.host, settings.port))
        except OSError as error:
            # A Machine that is replaced may be there still; an address that this host does not have stays away.
            verdict: Literal["warn", "fail"] = "warn" if error.errno == errno.EADDRINUSE else "fail"
            yield Finding(verdict, f"{settings.host}:{settings.port} cannot be listened on: {one_line(error)}.")
        else:
            yield Finding("ok", f"{settings.host}:{settings.port} can be listened on.")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = sys.maxsize if most == resource.RLIM_INFINITY else most
    wanted = settings.max_connections + settings.pool_size
    if most < wanted:
        wanting = f"GATEWAY_MAX_CONNECTIONS={settings.max_connections}"
        yield Finding("warn", f"{most} files may be open (ulimit -n), too few for {wanting}, which serve lowers.")
    else:
        yield Finding("ok", f"{most} files may be open." if most < sys.maxsize else "Any number of files may be open.")
    if settings.io_uring:
        try:
            Uring().close()
        except NoUring as error:
            yield Finding("warn", f"io_uring cannot be used ({error}): many readers of one run cost more.")
        else:
            yield Finding("ok", "io_uring can be used.")


async def _issuer(url: str) -> Finding:
    try:
        async with httpx.AsyncClient(timeout=CONNECT_TIMEOUT, trust_env=False) as http:
            count = len((await http.get(url)).raise_for_status().json()["keys"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        return Finding("warn", f"The keys for JWTs cannot be had ({one_line(error)}): each JWT would be answered 503.")
    return Finding("ok", f"{count} keys for JWTs can be had.")


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
        if settings.read_database_url is not None:
            yield await _replica(connection, settings.read_database_url)
        yield await _listen(settings, url)
    finally:
        connection.terminate()


async def _server(connection: LogConnection, _: Settings) -> Finding:
    fault = unfit(connection.get_server_version().major, connection.get_settings().server_encoding)
    if fault is not None:
        return Finding("fail", f"The database {fault}.")
    promise = await durability.ask(connection)
    warnings = [*promise.warnings, *([durability.READ_ONLY] if await durability.is_read_only(connection) else [])]
    return Finding("warn", " ".join(warnings)) if warnings else Finding("ok", f"The database: {promise}.")


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
            await flue.check_agents(connection, reads=settings.flue_readers is not None)
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
    """Tries every address, also that of a pooler behind which another one is used."""
    listening = listening_addresses(url, settings.listen_database_url)
    heard = {address: await _hears(address, url) for address in dict.fromkeys([*listening, url])}
    silent = " nor ".join(_place(address) for address, hears_there in heard.items() if not hears_there)
    chosen = next((address for address in listening if heard[address]), None)
    if chosen is not None:
        text = f"LISTEN works at {_place(chosen)}: events of other Machines arrive at once."
        return Finding("ok", f"{text} It does not at {silent}, which is no matter." if silent else text)
    where = next((_place(address) for address, hears_there in heard.items() if hears_there), None)
    remedy = "the direct address of the database" if where is None else f"that of {where}, where it works"
    return Finding(
        "fail" if settings.require_listen else "warn",
        f"LISTEN does not work at {silent}: the log would be polled. Set LISTEN_DATABASE_URL to {remedy}.",
    )


async def _replica(primary: LogConnection, url: str) -> Finding:
    """Whether the replica is one of this very log, and how far it is behind."""
    place = _place(url)
    try:
        connection = await connect(url, timeout=CONNECT_TIMEOUT, command_timeout=CONNECT_TIMEOUT)
    except (*FAULTS, ValueError) as error:
        return Finding("warn", f"The replica at {place} cannot be reached ({one_line(error)}): {_PRIMARY}.")
    try:
        log, written = await primary.fetchrow(STATE), await primary.fetchval(WRITTEN)
        began = time.monotonic()
        there = await connection.fetchrow(STATE)
        if log is None or there is None or (there["epoch"], there["incarnation"]) != (log["epoch"], log["incarnation"]):
            return Finding("warn", f"The server at {place} has another log, or an earlier epoch of it: {_PRIMARY}.")
        if not there["standby"]:
            return Finding("warn", f"The server at {place} is no standby, and takes writes: {_PRIMARY}.")
        while there["replayed"] < written and time.monotonic() < began + BEHIND:
            await asyncio.sleep(0.01)
            there = await connection.fetchrow(STATE) or there
        if there["replayed"] < written:
            lag = f"{written - there['replayed']:,} bytes behind after {BEHIND:g} s"
            return Finding("warn", f"The replica at {place} is {lag}: what it lacks is read at the primary.")
        told = f"The replica at {place} takes no writes, and has all within {time.monotonic() - began:.2f} s."
        if await primary.fetchval("SELECT current_setting('synchronous_standby_names')"):
            told += " It should follow a synchronous standby: else it may show what a failover then loses."
        return Finding("ok", told)
    except FAULTS as error:
        return Finding("warn", f"The replica at {place} refuses a question ({one_line(error)}): {_PRIMARY}.")
    finally:
        connection.terminate()


async def _hears(address: str, url: str) -> bool:
    try:
        connection = await connect(address, timeout=CONNECT_TIMEOUT, command_timeout=CONNECT_TIMEOUT)
    except (*FAULTS, ValueError):
        return False
    try:
        return await hears(connection, lambda: connect(url, timeout=CONNECT_TIMEOUT))
    except FAULTS:
        return False
    finally:
        connection.terminate()


def _place(url: str) -> str:
    port = urlsplit(url).port
    return f"{host_of(url)}:{port}" if port else host_of(url)
