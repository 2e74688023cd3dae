"""What a reader costs that waits and gets nothing."""

from __future__ import annotations

import asyncio

from loadtests.bench.clients.load import create, readers, writers
from loadtests.bench.lab import Lab
from loadtests.bench.peers.peer import Peer
from loadtests.bench.processes import memory

SETTLE = 2.0  # seconds until what was allocated for a connection's beginning is given back


async def idle(lab: Lab, peer: Peer) -> dict[str, float]:
    """Resident bytes per idle reader. Afterwards each gets an event, so that they were all there."""
    scale = lab.scale
    await create(lab, peer, scale.runs)
    async with readers(lab, peer, scale.runs, scale.runs):
        pass  # what the first readers make the server load is not the others' cost
    await asyncio.sleep(SETTLE)
    before = memory(peer.pids())
    async with readers(lab, peer, scale.idle_readers, scale.runs) as reading:
        await asyncio.sleep(SETTLE)
        held = memory(peer.pids()) - before
        async with writers(lab, peer, 16, scale.runs, once=1, size=scale.event) as writing:
            written = await writing.end()
        await reading.all_have(written.written)
    return {"bytes": held / scale.idle_readers, "before_mb": before / 1e6}
