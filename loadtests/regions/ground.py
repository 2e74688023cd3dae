"""What regions stand on: a Postgres in the first of them, and a door to it; if they are asked for, replicas elsewhere.

Where there are replicas Postgres is Debian's, with fsync off: what matters here is the way.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from gateway.embedded import EmbeddedPostgres
from gateway.log.migrations import migrate
from loadtests.bench.processes import Failed, Process
from loadtests.regions.door import HERE
from loadtests.regions.network import Region
from tests.failover.servers import Server, servers, until

PORT = 5432  # of Postgres, in the region of the primary
REPLICA_PORT = 5433  # of a replica, in its own
_FOLLOWS = "SELECT count(*) = 1 FROM pg_stat_wal_receiver WHERE status = 'streaming'"


@dataclass(frozen=True)
class Ground:
    """`dsn` is Postgres as it is reached from here, `pid` its process, and `url` its address in all regions.
    `replicas`: the address of each region's own.
    """

    dsn: str
    pid: int
    url: str
    replicas: Mapping[str, str]


@asynccontextmanager
async def open_ground(regions: Sequence[Region], folder: Path, *, replicas: bool) -> AsyncIterator[Ground]:
    """Migrated, in the first region. Raises Failed."""
    async with AsyncExitStack() as stack:
        if not replicas:
            postgres = await stack.enter_async_context(EmbeddedPostgres(folder / "postgres"))
            assert postgres.pid is not None, "it is ours"
            parts = urlsplit(postgres.dsn)
            query = parse_qs(parts.query)
            target = f"unix:{query['host'][0]}/.s.PGSQL.{query['port'][0]}"
            dsn, pid, name = postgres.dsn, postgres.pid, parts.path
            await migrate(dsn)
            await _door(stack, folder, str(regions[0].pid), regions[0].address, PORT, HERE, target)
            yield Ground(dsn, pid, f"postgresql://postgres@{regions[0].address}:{PORT}{name}", {})
            return
        all_of_them = await stack.enter_async_context(servers())
        primary = await all_of_them.primary()
        await migrate(primary.url)
        target = f"tcp://127.0.0.1:{primary.port}"
        await _door(stack, folder, str(regions[0].pid), regions[0].address, PORT, HERE, target)
        near = {}
        for region in regions[1:]:
            standby = await all_of_them.standby(primary)
            near[region.name] = await _move(stack, folder, standby, region, regions[0])
        yield Ground(primary.url, primary.pid, f"postgresql://postgres@{regions[0].address}:{PORT}/postgres", near)


async def _move(stack: AsyncExitStack, folder: Path, standby: Server, region: Region, primary: Region) -> str:
    """Has a standby follow its primary from that region, and returns its address there."""
    target = f"tcp://{primary.address}:{PORT}"
    way = await _door(stack, folder, HERE, "127.0.0.1", 0, str(region.pid), target)
    await standby.configure(primary_conninfo=f"host=127.0.0.1 port={way} user=postgres")
    await until(standby, f"{_FOLLOWS} AND conninfo LIKE '%port={way}%'")
    target = f"tcp://127.0.0.1:{standby.port}"
    await _door(stack, folder, str(region.pid), region.address, REPLICA_PORT, HERE, target)
    return f"postgresql://postgres@{region.address}:{REPLICA_PORT}/postgres"


async def _door(
    stack: AsyncExitStack, folder: Path, place: str, address: str, port: int, other: str, target: str
) -> int:
    """Opens a door, and returns its port."""
    log = folder / f"door-{place}-{port}-{other}.log"
    door = await Process.start(
        [sys.executable, "-m", "loadtests.regions.door", place, address, str(port), other, target], log
    )
    stack.push_async_callback(door.stop)
    deadline = time.monotonic() + 20
    while not door.said().isdigit():
        if not door.running or time.monotonic() > deadline:
            raise Failed(f"a door did not open: {door.said()}")
        await asyncio.sleep(0.02)
    return int(door.said())
