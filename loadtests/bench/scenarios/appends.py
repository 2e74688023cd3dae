"""Appends: how many are acknowledged in a second, how soon one is, and what it costs."""

from __future__ import annotations

import asyncio

from loadtests.bench.clients.load import create, writers
from loadtests.bench.lab import Lab
from loadtests.bench.meter import Meter
from loadtests.bench.peers.direct import Inserting
from loadtests.bench.peers.peer import Peer

Values = dict[str, float]
BATCHES_AT_ONCE = 16


async def posts64(lab: Lab, peer: Peer) -> Values:
    """One event a request, 64 connections."""
    return await _append(lab, peer, 64, lab.scale.runs)


async def posts256(lab: Lab, peer: Peer) -> Values:
    """One event a request, 256 connections."""
    return await _append(lab, peer, 256, max(256, lab.scale.runs))


async def batch100(lab: Lab, peer: Peer) -> Values:
    """A hundred events a request."""
    return await _append(lab, peer, BATCHES_AT_ONCE, lab.scale.runs, batch=100)


async def concurrency1(lab: Lab, peer: Peer) -> Values:
    """One event a request, one request at a time."""
    return await _append(lab, peer, 1, 1)


async def throughput(lab: Lab, peer: Peer) -> Values:
    """One event a request, against the connections: for the plot."""
    values: Values = {}
    for connections in lab.scale.sweep_connections:
        done = await _append(lab, peer, connections, max(connections, lab.scale.runs))
        values[f"per_s_{connections}"] = done["per_s"]
    return values


async def _append(lab: Lab, peer: Peer, connections: int, runs: int, batch: int = 1) -> Values:
    if isinstance(peer, Inserting):
        return await peer.measure(connections, runs, batch)
    await create(lab, peer, runs)
    async with writers(lab, peer, connections, runs, batch=batch, size=lab.scale.event) as writing:
        await asyncio.sleep(lab.scale.warm_up)
        await writing.mark()
        meter = Meter(lab, peer.pids(), peer.store_pids())
        await asyncio.sleep(lab.scale.seconds)
        used, done = meter.read(), await writing.stats()
        await writing.stop()
    return used.per(done.events) | {
        "per_s": done.events / done.seconds,
        "p50_ms": done.latency.milliseconds(0.5),
        "p99_ms": done.latency.milliseconds(0.99),
    }
