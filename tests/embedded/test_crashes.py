"""Whatever was killed, the next start finds every acknowledged row, and no Postgres is left over."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

import asyncpg
import pytest

from gateway.embedded import EmbeddedPostgres, EmbeddedPostgresError
from gateway.embedded.folders import claim
from tests.databases import OwnPostgres
from tests.embedded.tools import (
    AS_ROOT,
    Gateway,
    Spawn,
    account_of,
    cluster_of,
    only_linux,
    processes_in,
    run,
    until,
)


@only_linux
async def test_after_sigkill_no_postgres_is_left_and_no_row_is_lost(tmp_path: Path, gateways: Spawn) -> None:
    gateway = await gateways(tmp_path / "data")
    _, dsn = await gateway.ready()
    await run(dsn, "CREATE TABLE events (seq bigint PRIMARY KEY)")
    acknowledged = await append_until_cut(dsn, gateway)
    await until(lambda: not processes_in(tmp_path / "data"))
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        assert postgres.owner and postgres.dsn == dsn
        last = await run(dsn, "SELECT max(seq) FROM events")
        assert await run(dsn, "SELECT count(*) FROM events") == last
        assert last in (acknowledged, acknowledged + 1)  # the last commit may have lost its answer


async def append_until_cut(dsn: str, gateway: Gateway) -> int:
    """Appends row after row, kills the gateway in the middle, and returns how many were acknowledged."""
    connection = await asyncpg.connect(dsn)
    acknowledged = 0
    try:
        async with asyncio.timeout(60.0):
            while True:
                await connection.execute("INSERT INTO events VALUES ($1)", acknowledged + 1)
                acknowledged += 1
                if acknowledged == 200:
                    gateway.process.kill()
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
        return acknowledged
    finally:
        connection.terminate()
        await gateway.process.wait()


@only_linux
async def test_the_next_start_does_not_wait_for_the_killed_ones_end(tmp_path: Path, gateways: Spawn) -> None:
    first = await gateways(tmp_path / "data")
    await first.ready()
    await first.kill()
    async with EmbeddedPostgres(tmp_path / "data") as postgres:  # its Postgres is still shutting down
        assert postgres.owner
        assert await run(postgres.dsn, "SELECT 1") == 1


async def test_stale_lock_files_with_a_reused_pid_stop_nothing(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        runtime, cluster = postgres._home.runtime, cluster_of(tmp_path / "data")
        pid_file = (cluster / "postmaster.pid").read_text()
        lock_file = (runtime / ".s.PGSQL.5432.lock").read_text()
    account = account_of(cluster)
    other = await asyncio.create_subprocess_exec("sleep", "600", **account)  # type: ignore[arg-type]
    try:
        claim(runtime, cluster.stat().st_uid)
        for path, text in (
            (cluster / "postmaster.pid", pid_file),
            (runtime / ".s.PGSQL.5432.lock", lock_file),
        ):
            path.write_text("\n".join([str(other.pid), *text.splitlines()[1:]]) + "\n")
            if AS_ROOT:
                os.chown(path, account["user"], account["group"])
        async with EmbeddedPostgres(tmp_path / "data") as postgres:
            assert await run(postgres.dsn, "SELECT 1") == 1
        assert other.returncode is None
    finally:
        other.kill()
        await other.wait()


@pytest.mark.parametrize("text", ["", "0\n", "-1\n", "garbage\n"])
async def test_a_damaged_lock_file_stops_nothing(tmp_path: Path, text: str) -> None:
    async with EmbeddedPostgres(tmp_path / "data"):
        pass
    (cluster_of(tmp_path / "data") / "postmaster.pid").write_text(text)
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        assert await run(postgres.dsn, "SELECT 1") == 1


@only_linux
async def test_a_postgres_that_was_started_by_hand_is_left_alone(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        cluster = cluster_of(tmp_path / "data")
        pid_file = (cluster / "postmaster.pid").read_text()
        assert postgres.owner
    by_hand = await asyncio.create_subprocess_exec("sleep", "600", cwd=cluster)
    try:
        (cluster / "postmaster.pid").write_text(pid_file.replace(pid_file.split("\n")[0], str(by_hand.pid), 1))
        with pytest.raises(EmbeddedPostgresError, match=rf"that no gateway started \(process {by_hand.pid}\)"):
            await EmbeddedPostgres(tmp_path / "data").start()
        assert by_hand.returncode is None
    finally:
        by_hand.kill()
        await by_hand.wait()


async def test_a_postgres_that_dies_by_itself_is_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        await run(postgres.dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
        killed = postgres.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        await until(lambda: postgres.pid not in (killed, None) and postgres._home.cluster.says_ready())
        assert await run(postgres.dsn, "SELECT answer FROM kept") == 42
        assert "is not running (exit code -9): starting it again" in caplog.text


async def test_a_crash_on_purpose_is_recovered_from(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path / "data")
    await postgres.start()
    await run(postgres.dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    await postgres.stop("immediate")
    async with postgres:
        assert await run(postgres.dsn, "SELECT answer FROM kept") == 42
    assert "automatic recovery in progress" in (tmp_path / "data" / "postgres.log").read_text()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_the_server_of_a_test_can_be_restarted_in_the_middle(
    own_postgres: Callable[[], Awaitable[OwnPostgres]], mode: Literal["fast", "immediate"]
) -> None:
    server = await own_postgres()
    await server.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    url = server.url
    await server.restart(mode)
    assert server.url == url
    assert await run(server.dsn("postgres"), "SELECT answer FROM kept") == 42


async def test_data_that_has_gone_is_not_replaced_by_an_empty_database(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        await postgres.stop()
        shutil.rmtree(cluster_of(tmp_path / "data"))
        assert postgres._own()
        with pytest.raises(EmbeddedPostgresError, match="The data has gone"):
            await postgres._look_after()


async def test_a_look_whose_own_connection_is_ended_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ended(connection: asyncpg.Connection[asyncpg.Record], **_: object) -> None:
        monkeypatch.undo()  # this once
        connection.terminate()
        raise BrokenPipeError

    monkeypatch.setattr(asyncpg.Connection, "close", ended)
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        connection = await asyncpg.connect(postgres.dsn)
        await connection.close()
