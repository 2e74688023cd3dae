"""Reading a long run from its start: how fast for one, for many at once, and with how much memory."""

from __future__ import annotations

from loadtests.bench.clients.load import catch_up, create, writers
from loadtests.bench.lab import Lab
from loadtests.bench.peers.peer import Peer
from loadtests.bench.processes import peak, reset_peak

EVENT = 200  # bytes
BATCH = 100  # events a request


async def catchup(lab: Lab, peer: Peer) -> dict[str, float]:
    """Catch-up requests from page to page; every reader sees every event once and in order."""
    events = lab.scale.catch_events
    await create(lab, peer, 1)
    async with writers(lab, peer, 1, 1, batch=BATCH, size=EVENT, total=events // BATCH) as writing:
        await writing.end()
    values = {}
    for name, count in (("1", 1), ("many", lab.scale.catch_readers)):
        reset_peak(peer.pids())
        line = await catch_up(lab, peer, count, events)
        values[f"mb_s_{name}"] = line["bytes"] / line["seconds"] / 1e6
        values["peak_mb"] = peak(peer.pids()) / 1e6
    return values
