"""The rounds: A B C, A B C, A B C. A peer is started fresh each time; one that fails is noted, and the rest goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from loadtests.bench.goals import compared
from loadtests.bench.lab import Lab
from loadtests.bench.peers import PEERS
from loadtests.bench.peers.peer import Peer
from loadtests.bench.processes import Failed
from loadtests.bench.results import Results, Sample
from loadtests.bench.scenarios.appends import batch100, concurrency1, posts64, posts256, throughput
from loadtests.bench.scenarios.catchup import catchup
from loadtests.bench.scenarios.fanout import fanout, latency, many, many_together
from loadtests.bench.scenarios.killed import killed
from loadtests.bench.scenarios.machines import cross, listener, storm
from loadtests.bench.scenarios.memory import idle
from loadtests.bench.scenarios.slow import slow
from loadtests.bench.stats import NothingMeasured

LIMIT = 240.0  # seconds for one scenario with one peer, its start and end included

BRIDGED = ("redis", "redis-everysec", "nats-always", "nats")
DELIVERIES = ("gateway", "floor", "nchan", "fastapi", "reference", "reference-files", *BRIDGED)
APPENDS = ("gateway", "bare-asgi", "insert", "flue", "reference", "reference-files", "fastapi", *BRIDGED)
SWEPT = ("gateway", "bare-asgi", "flue", "reference", "reference-files", "fastapi")
WORKERS = ("gateway", "gateway-2")
# Not in the table, and asked for by name: what the plots show, and what a second process of the gateway brings.
APART = ("latency", "throughput", "workers-fanout", "workers-many", "workers-posts256")


@dataclass(frozen=True)
class Scenario:
    """A question, and the peers that can be asked it."""

    ask: Callable[[Lab, Peer], Awaitable[dict[str, float]]]
    peers: tuple[str, ...]


SCENARIOS: Mapping[str, Scenario] = {
    "fanout": Scenario(fanout, DELIVERIES),
    "many": Scenario(many, DELIVERIES),
    "together": Scenario(many_together, ("gateway", "gateway-posts")),
    "posts64": Scenario(posts64, APPENDS),
    "posts256": Scenario(posts256, APPENDS),
    "batch100": Scenario(batch100, APPENDS),
    "concurrency1": Scenario(concurrency1, APPENDS),
    "memory": Scenario(idle, ("gateway", "nchan", "fastapi", "reference", *BRIDGED)),
    "cross": Scenario(cross, ("gateway", "floor", "notify", "reference", "reference-files", *BRIDGED)),
    "catchup": Scenario(catchup, ("gateway", "reference", "reference-files", *BRIDGED)),
    "killed": Scenario(killed, ("gateway", *BRIDGED)),
    "listener": Scenario(listener, ("gateway",)),
    "storm": Scenario(storm, ("gateway",)),
    "slow": Scenario(slow, ("gateway", "reference")),
    "latency": Scenario(latency, DELIVERIES),
    "throughput": Scenario(throughput, SWEPT),
    "workers-fanout": Scenario(fanout, WORKERS),
    "workers-many": Scenario(many, WORKERS),
    "workers-posts256": Scenario(posts256, WORKERS),
}


async def run(
    lab: Lab, names: Sequence[str], peers: Sequence[str], rounds: int, tell: Callable[[str], None], *, goals: bool
) -> Results:
    """Measures these scenarios with these peers, as far as they are there; `goals`: no more than the goals need."""
    results = Results()
    missing = {name: what for name in peers if (what := PEERS[name].missing()) is not None}
    results.notes += [f"{PEERS[name].title} is left out: {what} is not installed" for name, what in missing.items()]
    for name in names:
        wanted = compared(name).intersection(peers) if goals else peers
        asked = [peer for peer in SCENARIOS[name].peers if peer in wanted and peer not in missing]
        for number in range(1, rounds + 1):
            for peer in asked:
                await _measure(lab, results, name, peer, number, tell)
    return results


async def _measure(
    lab: Lab, results: Results, scenario: str, name: str, number: int, tell: Callable[[str], None]
) -> None:
    peer = PEERS[name](lab)
    try:
        async with asyncio.timeout(LIMIT):
            await peer.start()
            values = await SCENARIOS[scenario].ask(lab, peer)
    except TimeoutError:
        fault = f"not done after {LIMIT:g} s"
    except (Failed, NothingMeasured, OSError, asyncpg.PostgresError) as error:
        fault = str(error)
    else:
        results.samples.append(Sample(scenario, name, number, values))
        tell(f"{scenario} {number} {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in values.items()))
        return
    finally:
        await peer.stop()
    results.failures += 1
    results.notes.append(f"{scenario}, {peer.title}, round {number}: {fault}")
    tell(results.notes[-1])
