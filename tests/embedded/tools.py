"""Another process with an embedded Postgres, and looks at what it leaves behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from gateway.embedded.locks import wait_for

AS_ROOT = os.geteuid() == 0
HAS_PROC = sys.platform == "linux"
only_root = pytest.mark.skipif(not AS_ROOT, reason="only root runs Postgres as another user")
only_linux = pytest.mark.skipif(not HAS_PROC, reason="looks into /proc")

GATEWAY = """
import asyncio, sys
from pathlib import Path
from gateway.embedded import EmbeddedPostgres

async def main():
    took_over = lambda: print("took over", flush=True)
    async with EmbeddedPostgres(Path(sys.argv[1]), on_takeover=took_over) as postgres:
        print("owner" if postgres.owner else "attached", postgres.dsn, flush=True)
        end = asyncio.Event()
        asyncio.get_running_loop().add_reader(0, end.set)
        await end.wait()

asyncio.run(main())
"""


class Gateway:
    """Another process with an EmbeddedPostgres on the folder; it stops cleanly when its stdin is closed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.runtime: Path | None = None

    @classmethod
    async def spawn(cls, data_dir: Path) -> Gateway:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", GATEWAY, str(data_dir),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        return cls(process)

    async def line(self, within: float = 60.0) -> str:
        assert self.process.stdout is not None
        return (await asyncio.wait_for(self.process.stdout.readline(), within)).decode().strip()

    async def ready(self) -> tuple[str, str]:
        role, dsn = (await self.line()).split()
        self.runtime = Path(parse_qs(urlsplit(dsn).query)["host"][0])
        return role, dsn

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert await asyncio.wait_for(self.process.wait(), 60.0) == 0


Spawn = Callable[[Path], Awaitable[Gateway]]


async def until(condition: Callable[[], object], within: float = 60.0) -> None:
    assert await wait_for(lambda: condition() or None, within), "it did not happen in time"


async def run(dsn: str, statement: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def processes_in(data_dir: Path) -> list[int]:
    """Every process of every Postgres below this folder: they all work in their cluster's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                where = os.readlink(entry / "cwd")
            except OSError:
                continue
            if where.startswith(f"{data_dir.resolve()}/"):
                found.append(int(entry.name))
    return found


def cluster_of(data_dir: Path) -> Path:
    (cluster,) = data_dir.glob("postgres-[0-9]*")
    return cluster


def account_of(cluster: Path) -> dict[str, int]:
    """Keyword arguments that start a process as the user whom Postgres runs as."""
    found = cluster.stat()
    return {"user": found.st_uid, "group": found.st_gid} if AS_ROOT else {}
