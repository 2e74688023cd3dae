"""Law 6: readers that hardly read cost the others nothing, take no memory, and get everything in the end."""

from __future__ import annotations

import asyncio

from loadtests.bench.clients.load import create, readers, writers
from loadtests.bench.lab import Lab
from loadtests.bench.peers.peer import Peer
from loadtests.bench.processes import peak, reset_peak

PACE = 1_000  # bytes a second for each slow reader
EVENT = 1_000  # bytes: a hundredth of what a slow reader would have to read
RATE = 100  # events a second


async def slow(lab: Lab, peer: Peer) -> dict[str, float]:
    """How late events are for fast readers, without and with slow ones beside them."""
    scale = lab.scale
    await create(lab, peer, 1)
    async with (
        readers(lab, peer, scale.fan_readers, 1) as fast,
        writers(lab, peer, 1, 1, rate=RATE, size=EVENT) as writing,
    ):
        await asyncio.sleep(scale.warm_up)
        await fast.mark()
        await asyncio.sleep(scale.seconds)
        without = await fast.stats()
        reset_peak(peer.pids())
        before = peak(peer.pids())  # of the same kind as what it is compared with: what is shared counts in both
        async with readers(lab, peer, scale.slow_readers, 1, pace=PACE) as behind:
            await fast.mark()
            await asyncio.sleep(2 * scale.seconds)
            beside = await fast.stats()
            grown = peak(peer.pids()) - before
            missed = await behind.stats()
            written = await writing.stop()
            await fast.all_have(written.written)
            await behind.hurry()
            await behind.all_have(written.written)
    return {
        "p99_without_ms": without.latency.milliseconds(0.99),
        "p99_beside_ms": beside.latency.milliseconds(0.99),
        "p99_times": beside.latency.milliseconds(0.99) / without.latency.milliseconds(0.99),
        "grown_mb": grown / 1e6,
        "behind": written.written - missed.reached / scale.slow_readers,
    }
