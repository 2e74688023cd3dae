"""Conversations of a real Flue 2.x app on three Machines, through their gateways, with leases as they are by default.

    python -m loadtests.probes.flue_agents                        # all of it: about five minutes
    python -m loadtests.probes.flue_agents --only delays --only death
    python -m loadtests.probes.flue_agents --only deploy --conversations 10

It installs and builds the app of tests/flue2, and follows by @flue/sdk: `sse` is what useFlueAgent of @flue/react does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from statistics import median
from typing import Any, Final
from uuid import uuid4

import click

from gateway.flue.news import INTERVAL
from gateway.flue.schema import attach, detach
from tests.databases import session_postgres
from tests.flue2.house import House, furnished
from tests.flue2.rig import MOUNT, ticks

FLUE: Final = {"TOKENS_PER_SECOND": "50"}
SETTINGS: Final = {"GATEWAY_FLUE_AGENTS": MOUNT, "GATEWAY_DRAIN_TIMEOUT": "5"}
LIVE: Final = ("sse", "long-poll")
SKIPPED: Final = 5  # outputs, in which a reader has come


async def delays(house: House) -> None:
    """Milliseconds from a tool's output to its arrival."""
    a, b, _ = house.machines
    places = {"the app of A, without a gateway": f"{a.app.url}{MOUNT}/", "gateway A": a.url(""), "gateway B": b.url("")}
    for place, url in places.items():
        for live in LIVE:
            await _delay(house, place, url, live)


async def rows(house: House) -> None:
    """The same at the Machine that answers from rows, by polling, and by triggers."""
    url = house.machines[-1].url("")
    for live in LIVE:
        await _delay(house, "gateway C, from rows by polling", url, live)
    await attach(house.database)
    await asyncio.sleep(2 * INTERVAL)  # the Machine looks for them
    for live in LIVE:
        await _delay(house, "gateway C, from rows by triggers", url, live)
    await detach(house.database)


async def _delay(house: House, place: str, url: str, live: str) -> None:
    """Of a conversation that A owns, for a reader at `url`."""
    id, tag = _id(), _id()
    await house.clients.send(tag, house.machines[0].url(id), ticks(60))
    await house.clients.observe(tag, f"{url}{id}", live)
    await house.clients.until(tag, "settled", timeout=120)
    late = [line["at"] - line["out"]["emittedAt"] for line in house.clients.lines(tag) if "out" in line]
    found = late[SKIPPED:]
    _tell(f"{place}, {live}", f"{len(found)} outputs: p50 {median(found):.0f} ms, worst {max(found)} ms")


async def turns(house: House) -> None:
    """Messages to A, B, A, …, each after the last one was settled."""
    id, tag = _id(), _id()
    took = []
    for turn in range(8):
        begun = time.monotonic()
        await house.clients.send(tag, house.machines[turn % 2].url(id), ticks(0))
        if not turn:
            await house.clients.observe(tag, house.machines[0].url(id))
        await house.clients.until(tag, "settled", turn + 1)
        took.append(time.monotonic() - begun)
    _tell("messages by turns to A and B", f"answered after {median(took):.2f} s, at most {max(took):.2f} s")


async def abort(house: House) -> None:
    """From an abort at B to the settlement at a reader, for a conversation of A."""
    took = []
    for _ in range(10):
        id, tag = _id(), _id()
        await house.clients.send(tag, house.machines[0].url(id), ticks(1000))
        await house.clients.observe(tag, house.machines[0].url(id))
        await house.clients.until(tag, "out", 2)
        begun = time.monotonic()
        await house.clients.abort(f"{tag} abort", house.machines[1].url(id))
        await house.clients.until(tag, "settled")
        took.append(1000 * (time.monotonic() - begun))
    _tell("abort at B until it is settled", f"p50 {median(took):.0f} ms, worst {max(took):.0f} ms")


async def death(house: House) -> None:
    """kill -9 of app and gateway A, where the other apps have had nothing to do since they started."""
    a, *others = house.machines
    for each in others:
        await each.app.terminate()
        await each.app.launch()
    id, tag = _id(), _id()
    await house.clients.send(tag, a.url(id), ticks(100, 0.5))
    await house.clients.observe(tag, others[0].url(id))
    before = len(await house.clients.until(tag, "out", 4))
    await a.die()
    killed = time.time()
    await house.clients.until(tag, "out", before + 2, timeout=120)
    _tell("kill -9 of A, others idle", f"goes on after {house.clients.lines(tag)[-1]['at'] / 1000 - killed:.1f} s")
    await house.clients.abort(f"{tag} abort", others[0].url(id))
    await a.begin()


async def tool(house: House) -> None:
    """SIGTERM of A in the middle of a tool of 20 s."""
    a, b, _ = house.machines
    id, tag = _id(), _id()
    await house.clients.send(tag, a.url(id), ticks(1, 20.0))
    await house.clients.observe(tag, b.url(id))
    begun = time.monotonic()
    await a.deploy()
    settled = await house.clients.until(tag, "settled")
    errors, attempts = house.clients.said(tag, "error"), await house.attempts(id)
    back = time.monotonic() - begun
    found = f"{settled[0]}, {len(errors)} errors, begun {attempts[0]} times; A was back after {back:.0f} s"
    _tell("SIGTERM of A in a tool of 20 s", found)


async def deploy(house: House, conversations: int) -> None:
    """One Machine after the other, while conversations go on: each is a tool of half a second, again and again."""
    tags: dict[str, str] = {}
    refused = 0
    while len(tags) < conversations:  # one by one: see the manual about Flue's one queue
        id, tag, n = _id(), _id(), len(tags)
        try:
            await house.clients.send(tag, house.machines[n % 3].url(id), ticks(60, 0.5))
        except AssertionError:  # a 500 of Flue's: another server was preparing the message at the same moment
            refused += 1
            continue
        tags[id] = tag
        await house.clients.observe(tag, house.machines[(n + 1) % 3].url(id))
        await house.settled(id, running=True)
    begun = time.monotonic()
    for each in house.machines:
        await each.deploy()
    deployed = time.monotonic() - begun
    for n, (id, tag) in enumerate(tags.items()):  # and a message to each, wherever
        await house.clients.send(tag, house.machines[n % 3].url(id), ticks(1))
        await house.clients.until(tag, "settled", 2, timeout=120)
    gaps = [_longest(house.clients.lines(tag)) for tag in tags.values()]
    errors = sum(len(house.clients.said(tag, "error")) for tag in tags.values())
    again = sum([sum(await house.attempts(id)) - 2 for id in tags])
    _tell(
        f"a rolling deploy, {conversations} conversations",
        f"{errors} tools broken, {again} attempts begun again, {refused} messages refused by Flue; longest wait for an"
        f" output {max(gaps):.1f} s, median {median(gaps):.1f} s; deployed in {deployed:.0f} s",
    )


def _longest(lines: list[dict[str, Any]]) -> float:
    """Seconds between two outputs of the first message, at most."""
    until = next(at for at, line in enumerate(lines) if "settled" in line)
    times = [line["at"] for line in lines[:until] if "out" in line]
    return max((later - earlier for earlier, later in pairwise(times)), default=0) / 1000


def _tell(what: str, found: str) -> None:
    click.echo(f"| {what} | {found} |")


def _id() -> str:
    return f"c-{uuid4().hex}"


PARTS: Final[dict[str, Callable[[House], Awaitable[None]]]] = {
    "delays": delays,
    "rows": rows,
    "turns": turns,
    "abort": abort,
    "death": death,
    "tool": tool,
}


@click.command()
@click.option("--only", type=click.Choice([*PARTS, "deploy"]), multiple=True, help="These parts alone.")
@click.option("--conversations", type=click.IntRange(1, 500), default=50, show_default=True)
def main(only: tuple[str, ...], conversations: int) -> None:
    """Print a table of what a conversation's user notices."""
    asyncio.run(_measure(only or (*PARTS, "deploy"), conversations))


async def _measure(names: tuple[str, ...], conversations: int) -> None:
    async with session_postgres() as postgres, furnished(postgres, flue=FLUE, settings=SETTINGS) as house:
        for name in names:
            await (deploy(house, conversations) if name == "deploy" else PARTS[name](house))


if __name__ == "__main__":
    main()
