"""An embedded Postgres starts and stops: with what, where, and what is left of it."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import threading
from pathlib import Path

import pytest

from gateway.embedded import EmbeddedPostgres, server_log
from tests.embedded.tools import cluster_of, only_linux, run, until


async def test_only_the_first_start_makes_a_cluster(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(2):
        async with EmbeddedPostgres(tmp_path / "data"):
            pass
    assert caplog.text.count("making a new cluster") == 1


async def test_the_server_is_durable_unicode_and_closed_to_the_network(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        settings = {
            name: await run(postgres.dsn, f"SHOW {name}")
            for name in (
                "fsync",
                "full_page_writes",
                "synchronous_commit",
                "listen_addresses",
                "server_encoding",
            )
        }
        assert settings == {
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "listen_addresses": "",
            "server_encoding": "UTF8",
        }
        assert await run(postgres.dsn, "SELECT datcollate FROM pg_database WHERE datname = 'postgres'") == "C"
        assert postgres.version.split(".")[0] == cluster_of(tmp_path / "data").name.removeprefix("postgres-")


async def test_data_and_dsn_survive_a_clean_restart(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        first = postgres.dsn
        await run(first, "CREATE TABLE kept AS SELECT 42 AS answer")
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        assert postgres.dsn == first
        assert await run(postgres.dsn, "SELECT answer FROM kept") == 42


async def test_a_new_data_folder_is_private_and_ignored_by_git(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "a" / "data"):
        assert stat.S_IMODE((tmp_path / "a" / "data").stat().st_mode) == 0o700
        assert (tmp_path / "a" / "data" / ".gitignore").read_text() == "*\n"


async def test_the_socket_lies_in_a_private_folder_that_is_removed(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        (socket,) = (path for path in postgres._home.runtime.iterdir() if not path.name.endswith(".lock"))
        folder = postgres._home.runtime.stat()
        assert stat.S_IMODE(folder.st_mode) == 0o700
        assert folder.st_uid == cluster_of(tmp_path / "data").stat().st_uid
        assert socket.is_socket()
    assert not socket.parent.exists()


async def test_a_long_folder_name_with_blanks_and_umlauts_is_fine(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long " * 30) / ("ä%'" * 30)
    async with EmbeddedPostgres(data_dir) as postgres:
        assert len(os.fsencode(postgres._home.runtime / ".s.PGSQL.5432")) < 107
        assert await run(postgres.dsn, "SELECT 1") == 1


async def test_the_users_postgres_variables_are_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PGPORT": "6543",
        "PGDATA": "/nowhere",
        "PGHOST": "elsewhere",
        "PGDATABASE": "other",
    }.items():
        monkeypatch.setenv(name, value)
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        assert await run(postgres.dsn, "SELECT current_database()::text") == "postgres"


async def test_stop_is_idempotent_and_leaves_no_task_thread_or_process(tmp_path: Path) -> None:
    tasks, threads = asyncio.all_tasks(), threading.active_count()
    postgres = EmbeddedPostgres(tmp_path / "data")
    await postgres.stop()
    await postgres.start()
    pid = postgres.pid
    assert pid is not None and await postgres.start() == postgres.dsn and postgres.pid == pid
    await postgres.stop()
    await postgres.stop()
    assert asyncio.all_tasks() == tasks
    assert threading.active_count() == threads
    assert not postgres.owner
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_start_that_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path / "data")
    start = asyncio.create_task(postgres.start())
    await until(lambda: list((tmp_path / "data").glob(".initdb-*")))
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not postgres.owner
    async with postgres:
        assert await run(postgres.dsn, "SELECT 1") == 1
        assert not list((tmp_path / "data").glob(".initdb-*"))


@only_linux
async def test_ctrl_c_in_the_terminal_does_not_reach_postgres(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        assert postgres.pid is not None
        assert os.getsid(postgres.pid) == postgres.pid != os.getsid(0)


async def test_the_log_is_put_aside_when_it_has_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_log, "LIMIT", 100)
    (tmp_path / "postgres.log").write_text("old\n" * 100)
    async with EmbeddedPostgres(tmp_path):
        assert (tmp_path / "postgres.log.1").read_text() == "old\n" * 100
        assert "old" not in (tmp_path / "postgres.log").read_text()
