"""A full disk: what cannot be written is refused as not writable, and what is there can still be read."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.embedded import EmbeddedPostgres
from gateway.log.appends import Appended
from gateway.log.migrations import migrate
from gateway.protocol.errors import NotWritable, Unavailable
from tests.log.rig import Log, connected, opened
from tests.tools.disk import open_disk

PLENTY = 1 << 40


async def refused(log: Log) -> None:
    """Appends until it is refused as not writable, which is soon."""
    async with asyncio.timeout(60):
        while True:
            try:
                await log.append("s", b"1")
            except NotWritable:
                return


async def accepted(log: Log) -> Appended:
    async with asyncio.timeout(60):
        while True:
            try:
                return await log.append("s", b"2")
            except Unavailable:
                await asyncio.sleep(0.05)


async def test_with_little_room_postgres_takes_no_writes_for_a_while(tmp_path: Path) -> None:
    room = PLENTY
    async with EmbeddedPostgres(tmp_path / "data", free=lambda: room) as postgres:
        await migrate(postgres.dsn)
        async with opened(postgres.dsn) as log:
            await log.create("s", body=b"[0]")
            room = 1 << 20
            await refused(log)
            assert (await log.content("s")).startswith(b"0")
            room = PLENTY
            await accepted(log)
    async with EmbeddedPostgres(tmp_path / "data", free=lambda: 1 << 20) as postgres, opened(postgres.dsn) as log:
        await refused(log)
    async with EmbeddedPostgres(tmp_path / "data") as postgres, opened(postgres.dsn) as log:
        await accepted(log)  # whatever an earlier gateway has left


async def test_a_disk_without_room_for_wal_ends_no_postgres(tmp_path: Path) -> None:
    with open_disk(tmp_path / "disk") as disk:
        if disk is None:
            pytest.skip("no file system can be mounted here")
        async with EmbeddedPostgres(tmp_path / "disk" / "data") as postgres:
            await migrate(postgres.dsn)
            async with opened(postgres.dsn) as log, connected(postgres.dsn) as witness:
                await log.create("s", body=b"[0]")
                with disk.full():
                    await refused(log)
                    async with asyncio.timeout(60):  # until nobody writes any more, WAL neither
                        while await witness.fetchval("SHOW default_transaction_read_only") == "off":  # noqa: ASYNC110
                            await asyncio.sleep(0.05)
                    assert (await log.content("s")).startswith(b"0")
                tail = (await accepted(log)).tail
                assert await witness.fetchval("SELECT tail FROM run_gateway.streams") == tail, "it has not ended"
