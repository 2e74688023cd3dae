"""Deliveries: what one costs the server, and how old an event is when it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from loadtests.bench.clients.load import Read, Writers, create, readers, together, writers
from loadtests.bench.lab import Lab
from loadtests.bench.meter import Meter
from loadtests.bench.peers.peer import Peer

Values = dict[str, float]

DELAY_RATE = 50  # events a second


async def fanout(lab: Lab, peer: Peer) -> Values:
    """Many readers of one run."""
    return await _deliver(lab, peer, lab.scale.fan_readers, 1, lab.scale.fan_rate)


async def many(lab: Lab, peer: Peer) -> Values:
    """One reader for each of many runs, each with its own writer; the appends are part of a delivery's cost."""
    return await _deliver(lab, peer, lab.scale.runs, lab.scale.runs, lab.scale.run_rate)


async def many_together(lab: Lab, peer: Peer) -> Values:
    """As `many`, where one process writes to all of the runs: the appends go together, or each in a POST of its own."""
    if not peer.together:
        return await many(lab, peer)
    scale = lab.scale
    writing = together(lab, peer, scale.runs, rate=scale.run_rate, size=scale.event)
    return await _deliver(lab, peer, scale.runs, scale.runs, scale.run_rate, writing)


async def latency(lab: Lab, peer: Peer) -> Values:
    """How late an event is, against how many read it: for the plot."""
    return await delays(lab, peer, lab.scale.sweep_readers)


async def delays(lab: Lab, peer: Peer, counts: Sequence[int], port: int | None = None) -> Values:
    """From an append to the frame at each of so many readers, who may be at another port; a run for each count."""
    await create(lab, peer, len(counts))
    values: Values = {}
    for run, count in enumerate(counts):
        async with readers(lab, peer, count, 1, port=port, base=run) as reading:
            async with writers(lab, peer, 1, 1, rate=DELAY_RATE, size=lab.scale.event, base=run) as writing:
                await asyncio.sleep(lab.scale.warm_up)
                await reading.mark()
                await asyncio.sleep(lab.scale.seconds)
                read = await reading.stats()
                written = await writing.stop()
            await reading.all_have(written.written)
        values |= {f"{name}_{count}": value for name, value in of_latency(read).items()}
    return values


async def _deliver(
    lab: Lab, peer: Peer, count: int, runs: int, rate: int, by: AbstractAsyncContextManager[Writers] | None = None
) -> Values:
    scale = lab.scale
    await create(lab, peer, runs)
    async with readers(lab, peer, count, runs) as reading:
        async with by or writers(lab, peer, runs, runs, rate=rate, size=scale.event) as writing:
            await asyncio.sleep(scale.warm_up)
            await reading.mark()
            meter = Meter(lab, peer.pids(), peer.store_pids())
            await asyncio.sleep(scale.seconds)
            used, read = meter.read(), await reading.stats()
            kept_up = read.events / (used.seconds * count * rate)
            written = await writing.stop()
        await reading.all_have(written.written)
    return used.per(read.events) | of_latency(read) | {"kept_up": kept_up}


def of_latency(read: Read) -> Values:
    return {"p50_ms": read.latency.milliseconds(0.5), "p99_ms": read.latency.milliseconds(0.99)}
