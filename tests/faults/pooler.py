"""PgBouncer in front of a database: Debian's package, a process of the test's own.

`async with PgBouncer.start(url) as pooler:` gives `pooler.url`, behind which transactions change their backends.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from tests.machines import free_port

PROGRAM = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
NOBODY = 65534


class PgBouncer:
    """A pooler over one database; `mode` is its pool_mode, `size` the backends that it shares out."""

    def __init__(self, url: str, process: asyncio.subprocess.Process) -> None:
        self.url = url
        self.process = process

    @classmethod
    @asynccontextmanager
    async def start(cls, database_url: str, *, mode: str = "transaction", size: int = 4) -> AsyncIterator[PgBouncer]:
        """One that answers. Skips the test where there is no PgBouncer, which CI takes for a failure."""
        if PROGRAM is None:
            assert "CI" not in os.environ, "CI installs pgbouncer"
            pytest.skip("pgbouncer is not installed")
        with tempfile.TemporaryDirectory(prefix="pgbouncer-") as folder:
            port = free_port()
            config = _write(folder, _config(database_url, port, mode, size))
            process = await asyncio.create_subprocess_exec(
                PROGRAM,
                "-q",
                str(config),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                **_account(database_url),
            )
            name = urlsplit(database_url).path.removeprefix("/")
            pooler = cls(f"postgresql://postgres@127.0.0.1:{port}/{name}", process)
            try:
                await pooler._answers()
                yield pooler
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()

    async def _answers(self) -> None:
        async with asyncio.timeout(60):
            while True:
                assert self.process.returncode is None, f"pgbouncer ended with {self.process.returncode}"
                try:
                    connection = await asyncpg.connect(self.url, statement_cache_size=0)
                except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    await asyncio.sleep(0.02)
                else:
                    await connection.close()
                    return


def _write(folder: str, text: str) -> Path:
    config = Path(folder, "pgbouncer.ini")
    config.write_text(text)
    os.chmod(folder, 0o755)  # for the account that it runs as
    return config


def _account(database_url: str) -> dict[str, Any]:
    """It refuses to be root: then it is whoever may use the database's socket."""
    if os.getuid() != 0:
        return {}
    host = _address(database_url)[0]
    user = os.stat(host).st_uid if host.startswith("/") else NOBODY
    return {"user": user, "group": user, "extra_groups": []}


def _address(database_url: str) -> tuple[str, int]:
    parts = urlsplit(database_url)
    query = parse_qs(parts.query)
    return parts.hostname or query["host"][0], parts.port or int(query.get("port", ["5432"])[0])


def _config(database_url: str, port: int, mode: str, size: int) -> str:
    parts = urlsplit(database_url)
    host, number = _address(database_url)
    password = f" password={parts.password}" if parts.password else ""
    return f"""
[databases]
* = host={host} port={number} user={parts.username or "postgres"}{password}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = 200
server_login_retry = 1
"""
