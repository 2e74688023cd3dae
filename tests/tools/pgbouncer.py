"""PgBouncer in front of a database: Debian's package, as a child process that may be killed and started again.

Behind its `url`, which stays the same, transactions change their backends.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import asyncpg

from tests.machines import free_port

PROGRAM = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
PATIENCE = 60.0  # seconds for it to answer
_NOBODY = 65534
_CONFIG = """
[databases]
* = host={host} port={number} user={user}{password}

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


class PgBouncerFailed(Exception):
    """The process ended, or did not answer; or there is no such program."""


class PgBouncer:
    """A pooler over one database, in `folder`; `mode` is its pool_mode, `size` the backends that it shares out."""

    def __init__(self, folder: Path, database_url: str, mode: str, size: int) -> None:
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/{urlsplit(database_url).path.removeprefix('/')}"
        self._account = _account(database_url)
        self._config = folder / "pgbouncer.ini"
        self._config.write_text(_config(database_url, self.port, mode, size))
        folder.chmod(0o755)  # for the account that it runs as
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    @asynccontextmanager
    async def start(cls, database_url: str, *, mode: str = "transaction", size: int = 4) -> AsyncIterator[Self]:
        """One that answers, until the block ends. Raises PgBouncerFailed."""
        with tempfile.TemporaryDirectory(prefix="pgbouncer-") as folder:
            pooler = cls(Path(folder), database_url, mode, size)
            try:
                await pooler.launch()
                yield pooler
            finally:
                await pooler.kill()

    async def launch(self) -> None:
        """Returns when it listens. Raises PgBouncerFailed."""
        if PROGRAM is None:
            raise PgBouncerFailed("pgbouncer is not installed")
        self._process = await asyncio.create_subprocess_exec(
            PROGRAM, "-q", str(self._config),
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, **self._account,
        )  # fmt: skip
        try:
            async with asyncio.timeout(PATIENCE):
                while not await self._answers():
                    if self._process.returncode is not None:
                        raise PgBouncerFailed(f"pgbouncer ended with {self._process.returncode}")
                    await asyncio.sleep(0.02)
        except TimeoutError as error:
            await self.kill()
            raise PgBouncerFailed(f"pgbouncer did not answer within {PATIENCE:g} s") from error

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "it has been launched"
        self._process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL; nothing when it has ended."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self.url, statement_cache_size=0)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        await connection.close()
        return True


def _account(database_url: str) -> dict[str, Any]:
    """It refuses to be root: then it is whoever may use the database's socket."""
    if os.getuid() != 0:
        return {}
    host = _address(database_url)[0]
    user = os.stat(host).st_uid if host.startswith("/") else _NOBODY
    return {"user": user, "group": user, "extra_groups": []}


def _address(database_url: str) -> tuple[str, int]:
    parts = urlsplit(database_url)
    query = parse_qs(parts.query)
    return parts.hostname or query["host"][0], parts.port or int(query.get("port", ["5432"])[0])


def _config(database_url: str, port: int, mode: str, size: int) -> str:
    parts = urlsplit(database_url)
    host, number = _address(database_url)
    password = f" password={parts.password}" if parts.password else ""
    user = parts.username or "postgres"
    return _CONFIG.format(host=host, number=number, user=user, password=password, port=port, mode=mode, size=size)
