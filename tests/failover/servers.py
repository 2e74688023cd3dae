"""Postgres servers that follow one another, to be lost, promoted and shut down: Debian's own binaries, as they are.

Law: what happens to a server is a named act here; nothing here knows the gateway.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg

from gateway.embedded.accounts import choose_account
from tests.faults.host import unless_ci

PATIENCE = 60.0
_SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
shared_buffers = 16MB
wal_retrieve_retry_interval = 100ms
log_min_messages = fatal
port = {port}
"""


def binaries() -> Path:
    """The folder of the newest Postgres of the system."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_basebackup"), key=lambda path: int(path.parts[-3]))
    if not found:
        unless_ci("Debian's Postgres is not installed")
    return found[-1].parent


class Server:
    """One of them. `url` is its database; a killed one stays dead. `env`: that its processes have beside their own."""

    def __init__(self, folder: Path, port: int, env: Mapping[str, str] | None = None) -> None:
        self._env = env or {}
        self.port = port
        self.url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        with (self._folder / "postgresql.conf").open("a") as config:
            config.write(_SETTINGS.format(port=self.port))
        self._process = _postgres(self._folder, self._env)
        await until(self, "SELECT true")

    @property
    def pid(self) -> int:
        assert self._process is not None, "it runs"
        return self._process.pid

    async def fetchval(self, statement: str) -> Any:
        connection = await asyncpg.connect(self.url, timeout=5)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    async def configure(self, **settings: str) -> None:
        for name, value in settings.items():
            await self.fetchval(f"ALTER SYSTEM SET {name} = '{value}'")
        await self.fetchval("SELECT pg_reload_conf()")

    def kill(self) -> None:
        """As when its host is lost: nobody says goodbye."""
        self._end(signal.SIGKILL)

    def shut_down(self) -> None:
        """In order: its standby has everything afterwards."""
        self._end(signal.SIGINT)

    def abort(self) -> None:
        """As when it has crashed: it recovers at its next start."""
        self._end(signal.SIGQUIT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        backends = _children(self._process.pid) if how is signal.SIGKILL else []
        self._process.send_signal(how)
        for pid in backends:
            with suppress(ProcessLookupError):
                os.kill(pid, how)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired as error:
            error.add_note("\n".join(["Postgres still has:", *map(_title, _children(self._process.pid))]))
            raise
        self._process = None

    async def keep_snapshot(self) -> None:
        """Of its volume, to `go_back` to."""
        self.shut_down()
        await asyncio.to_thread(_copy, self._folder, self._folder.with_suffix(".snapshot"))
        await self.start()

    async def go_back(self) -> None:
        """It is lost, and its volume is put back as it was: it goes on there, on the same timeline."""
        self.kill()
        shutil.rmtree(self._folder)
        self._folder.with_suffix(".snapshot").rename(self._folder)
        await self.start()

    async def promote(self) -> None:
        """Returns when it takes writes, on a timeline of its own."""
        await self.fetchval("SELECT pg_promote()")
        await until(self, "SELECT NOT pg_is_in_recovery()")

    async def stop_following(self) -> None:
        """A standby that gets nothing any more, and does not know it."""
        await self.configure(primary_conninfo="")
        await until(self, "SELECT count(*) = 0 FROM pg_stat_wal_receiver")

    async def follow(self, other: Server) -> None:
        """As a standby: of another server, which may be one itself."""
        await self.configure(primary_conninfo=f"host=127.0.0.1 port={other.port} user=postgres")

    async def archive(self) -> None:
        """Returns when the archive has all that was written by now."""
        segment = await self.fetchval("SELECT pg_walfile_name(pg_switch_wal())")
        await until(self, f"SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver")

    async def has_all_of(self, primary: Server) -> None:
        """Returns when a standby has replayed what its primary has written by now."""
        written = await primary.fetchval("SELECT pg_current_wal_flush_lsn()::text")
        await until(self, f"SELECT pg_last_wal_replay_lsn() >= '{written}'")


class Servers:
    """A primary, and what is made of it, in a folder that they may read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._all: list[Server] = []

    async def primary(self, env: Mapping[str, str] | None = None, *, archived: bool = False) -> Server:
        """`archived`: what it writes is kept, for a backup of it to go on from."""
        server = self._new(env)
        await run("initdb", "-D", server._folder, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        if archived:
            with (server._folder / "postgresql.conf").open("a") as config:
                config.write(f"archive_mode = on\narchive_command = 'cp %p {self.folder}/archived-%f'\n")
        await server.start()
        return server

    async def backup(self, primary: Server) -> Server:
        """A copy, to be restored."""
        server = self._new()
        source = ("-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres")
        await run("pg_basebackup", "-D", server._folder, *source, "-X", "fetch", "-c", "fast", "--no-sync")
        return server

    async def restore(self, backup: Server, moment: str) -> None:
        """As its primary was at that moment, which the archive goes beyond. It is on a timeline of its own."""
        with (backup._folder / "postgresql.conf").open("a") as config:
            config.write(
                f"archive_mode = off\nrestore_command = 'cp {self.folder}/archived-%f %p'\n"
                f"recovery_target_time = '{moment}'\nrecovery_target_action = 'promote'\n"
            )
        (backup._folder / "recovery.signal").touch()
        await backup.start()
        await until(backup, "SELECT NOT pg_is_in_recovery()")

    async def standby(self, primary: Server, *, synchronous: bool = False) -> Server:
        server = self._new()
        source = ("-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres")
        await run("pg_basebackup", "-D", server._folder, *source, "-R", "-X", "stream", "-c", "fast", "--no-sync")
        await server.start()
        if synchronous:
            await until(primary, "SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'")
            await primary.configure(synchronous_standby_names="*")
            await until(primary, "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'")
        return server

    def _new(self, env: Mapping[str, str] | None = None) -> Server:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        server = Server(self.folder / f"server-{port}", port, env)
        self._all.append(server)
        return server

    def forget(self, server: Server) -> None:
        """It never comes back, nor does what it held."""
        server.kill()
        shutil.rmtree(server._folder, ignore_errors=True)
        self._all.remove(server)

    def end(self) -> None:
        for server in self._all:
            server.kill()


@asynccontextmanager
async def servers() -> AsyncIterator[Servers]:
    folder = Path(tempfile.mkdtemp(prefix="failover-"))
    account = choose_account([])
    if account is not None:
        os.chown(folder, account.uid, account.gid)
    all_of_them = Servers(folder)
    try:
        yield all_of_them
    finally:
        all_of_them.end()
        shutil.rmtree(folder, ignore_errors=True)


async def until(server: Server, condition: str) -> None:
    """Asks until the server says yes; it need not be up yet. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                if await server.fetchval(condition):
                    return
            except (OSError, asyncpg.PostgresError):
                pass
            await asyncio.sleep(0.05)


async def run(program: str, *arguments: str | Path) -> None:
    process = await asyncio.create_subprocess_exec(
        binaries() / program, *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **as_nobody()
    )
    _, trouble = await process.communicate()
    assert process.returncode == 0, trouble.decode()


def _copy(folder: Path, to: Path) -> None:
    subprocess.run(["cp", "-a", folder, to], check=True)


def _postgres(folder: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    options = as_nobody()
    options["env"] |= env
    return subprocess.Popen([binaries() / "postgres", "-D", folder], stderr=subprocess.DEVNULL, **options)


def as_nobody() -> dict[str, Any]:
    """Postgres does not run as root."""
    account = choose_account([])
    own: dict[str, Any] = {"cwd": "/", "env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}}
    return own if account is None else {**own, "user": account.uid, "group": account.gid, "extra_groups": []}


def _title(pid: int) -> str:
    """What a process says that it does."""
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/cmdline").read_text().strip("\0 ")
    return "one that has just ended"


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
