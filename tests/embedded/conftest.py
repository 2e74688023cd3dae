"""Gateways that share a folder, none of which outlives its test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.embedded.tools import HAS_PROC, Gateway, Spawn, processes_in, until


@pytest_asyncio.fixture
async def gateways(tmp_path: Path) -> AsyncIterator[Spawn]:
    spawned: list[Gateway] = []

    async def spawn(data_dir: Path) -> Gateway:
        spawned.append(await Gateway.spawn(data_dir))
        return spawned[-1]

    yield spawn
    for gateway in spawned:
        if gateway.process.returncode is None:
            await gateway.kill()
    if HAS_PROC:
        await until(lambda: not processes_in(tmp_path))
    for runtime in {gateway.runtime for gateway in spawned if gateway.runtime is not None}:
        if runtime.exists():  # a killed gateway leaves it, empty
            runtime.rmdir()
