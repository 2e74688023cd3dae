"""Several Machines over one database: how late news is elsewhere, what it costs there, and what losing one does."""

from __future__ import annotations

import asyncio

import asyncpg

from loadtests.bench.clients.load import Readers, create, readers, writers
from loadtests.bench.lab import Lab
from loadtests.bench.meter import Meter
from loadtests.bench.peers.direct import Direct
from loadtests.bench.peers.gateway import Gateway
from loadtests.bench.peers.peer import Peer
from loadtests.bench.processes import Failed
from loadtests.bench.scenarios.fanout import DELAY_RATE, delays

Values = dict[str, float]

STORM_PATIENCE = 60.0
STATISTICS_PATIENCE = 11.0  # seconds after which an idle session of Postgres has told its counts
SCANS = "SELECT idx_scan FROM pg_stat_user_tables WHERE schemaname = 'run_gateway' AND relname = 'events'"


async def cross(lab: Lab, peer: Peer) -> Values:
    """From an append on one Machine to the frame at readers on another. A peer that is one process is both."""
    if isinstance(peer, Direct):
        p50 = (await peer.run(rate=DELAY_RATE))["p50_ms"]
        return {f"p50_ms_{count}": p50 for count in lab.scale.cross_readers}
    return await delays(lab, peer, lab.scale.cross_readers, port=await peer.another())


async def listener(lab: Lab, peer: Peer) -> Values:
    """CPU that news costs a Machine which nobody reads from."""
    assert isinstance(peer, Gateway), "others have no second Machine"
    scale = lab.scale
    idle = await peer.add()
    await create(lab, peer, scale.runs)
    async with writers(lab, peer, scale.runs, scale.runs, rate=scale.run_rate // 2, size=scale.event) as writing:
        await asyncio.sleep(scale.warm_up)
        await writing.mark()
        meter = Meter(lab, [idle.pid])
        await asyncio.sleep(scale.seconds)
        used, written = meter.read(), await writing.stats()
        await writing.stop()
    return used.per(written.events) | {"events_per_s": written.events / written.seconds}


async def storm(lab: Lab, peer: Peer) -> Values:
    """Machine A is killed with all readers on it; they come to B at once, where the writers go on."""
    assert isinstance(peer, Gateway), "others have no second Machine"
    scale = lab.scale
    second = await peer.add()
    await create(lab, peer, scale.storm_runs)
    async with readers(lab, peer, scale.storm_readers, scale.storm_runs, fallback=second.port) as reading:
        async with writers(
            lab, peer, scale.storm_runs, scale.storm_runs, port=second.port, rate=scale.run_rate, size=scale.event
        ) as writing:
            await asyncio.sleep(scale.warm_up)
            scans = await _scans(peer)
            await peer.machines[0].kill()
            await _recovered(reading, scale.storm_readers)
            written = await writing.stop()
        read = await reading.all_have(written.written)
    return {
        "p50_s": read.recovery.quantile(0.5) / 1e6,
        "p99_s": read.recovery.quantile(0.99) / 1e6,
        "max_s": read.recovery.quantile(1) / 1e6,
        "reads_per_run": (await _scans(peer) - scans) / scale.storm_runs,
    }


async def _recovered(reading: Readers, count: int) -> None:
    """Waits until all are back and have got something that was written since. Raises Failed."""
    deadline = asyncio.get_running_loop().time() + STORM_PATIENCE
    while (read := await reading.stats()).recovered < count:
        if asyncio.get_running_loop().time() > deadline:
            raise Failed(f"{count - read.recovered} of {count} readers had not caught up after {STORM_PATIENCE:g} s")
        await asyncio.sleep(0.1)


async def _scans(peer: Gateway) -> int:
    """How often events were looked up by now: Postgres' own count of scans of their index."""
    await asyncio.sleep(STATISTICS_PATIENCE)
    connection = await asyncpg.connect(peer.database)
    try:
        return int(await connection.fetchval(SCANS))
    finally:
        await connection.close()
