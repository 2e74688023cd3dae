"""What is lost, stored twice, missed or repeated when processes are killed in the middle. Counted, event by event.

Writers send one event at a time, again and again until it is acknowledged, with the protocol's headers for idempotent
producers. Readers come back with the last id that they were given. The server and what keeps its events are killed by
SIGKILL in turn. A killed process leaves what it has written to the kernel: this is no loss of power.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from loadtests.bench.clients.load import create
from loadtests.bench.lab import Lab
from loadtests.bench.peers.peer import Peer
from loadtests.bench.processes import Failed

RUNS = 20
CRASHES = 5  # of the server and of the store each
PAUSE = 0.05  # seconds, before somebody who was refused tries again
PATIENCE = 15.0  # seconds until readers have what is stored
NUMBER = re.compile(r'"n":"(\d{10})"')


@dataclass
class Account:
    """One run: what its writer was told, what its reader was given, what is stored in the end."""

    run: int
    acknowledged: list[int] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)

    def tally(self) -> dict[str, int]:
        stored, seen = Counter(self.stored), Counter(self.seen)
        return {
            "acknowledged": len(self.acknowledged),
            "lost": len(set(self.acknowledged) - set(stored)),
            "stored_twice": (stored - Counter(set(stored))).total(),
            "missed": (stored - seen).total(),
            "repeated": (seen - stored).total() - len(set(seen) - set(stored)),
            "taken_back": len(set(seen) - set(stored)),
        }


async def killed(lab: Lab, peer: Peer) -> dict[str, float]:
    """Sums over all runs; `repeated` is beyond what is stored twice, `taken_back` was shown and is gone."""
    await create(lab, peer, RUNS)
    accounts = [Account(run) for run in range(RUNS)]
    done = asyncio.Event()
    async with _client() as client, asyncio.TaskGroup() as reading:
        readers = [reading.create_task(_read(client, peer, account)) for account in accounts]
        async with asyncio.TaskGroup() as writing:
            for account in accounts:
                writing.create_task(_write(client, peer, account, done))
            for _ in range(CRASHES):
                await asyncio.sleep(lab.scale.warm_up)
                await peer.crash_server()
                await asyncio.sleep(lab.scale.warm_up)
                await peer.crash_store()
            await asyncio.sleep(lab.scale.warm_up)
            done.set()
        for account in accounts:
            account.stored = await _stored(client, peer, account.run)
        await _caught_up(accounts)
        for task in readers:
            task.cancel()
    tallies = [account.tally() for account in accounts]
    values = {name: float(sum(tally[name] for tally in tallies)) for name in tallies[0]}
    return values | {"wrong": sum(values.values()) - values["acknowledged"]}


@asynccontextmanager
async def _client() -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=RUNS)
    async with httpx.AsyncClient(limits=limits, timeout=httpx.Timeout(10, read=None), trust_env=False) as client:
        yield client


def _url(peer: Peer, pattern: str, run: int) -> str:
    return f"http://127.0.0.1:{peer.port}{pattern.replace('%r', str(run)).replace('%o', f'{0:016}')}"


async def _write(client: httpx.AsyncClient, peer: Peer, account: Account, done: asyncio.Event) -> None:
    number = 0
    while not done.is_set():
        number += 1
        event = f'{{"n":"{number:010}","t":"{0:016}","p":"."}}'
        headers = {
            "Content-Type": "application/json",
            "Producer-Id": f"writer-{account.run}",
            "Producer-Epoch": "0",
            "Producer-Seq": str(number - 1),
        }
        # A server is waited for, which tells nobody that it is back.
        while not await _acknowledged(client, _url(peer, peer.publish, account.run), event, headers):  # noqa: ASYNC110
            await asyncio.sleep(PAUSE)
        account.acknowledged.append(number)


async def _acknowledged(client: httpx.AsyncClient, url: str, event: str, headers: dict[str, str]) -> bool:
    try:
        response = await client.post(url, content=event, headers=headers, timeout=10)
    except httpx.HTTPError:
        return False
    if response.is_client_error and response.status_code != 429:
        raise Failed(f"a writer was answered {response.status_code}: {response.text[:200]}")
    return response.is_success


async def _read(client: httpx.AsyncClient, peer: Peer, account: Account) -> None:
    """Goes on until it is cancelled, whatever happens to its connection."""
    last = ""
    while True:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
        try:
            async with client.stream("GET", _url(peer, peer.subscribe, account.run), headers=headers) as response:
                id, numbers = last, list[int]()
                async for line in response.aiter_lines():
                    if line.startswith("id:"):
                        id = line[3:].strip()
                    elif line.startswith("data:"):
                        numbers += map(int, NUMBER.findall(line))
                    elif not line:  # as an EventSource does: what has no empty line behind it has not come
                        account.seen += numbers
                        last, numbers = id, []
        except httpx.HTTPError:
            pass
        await asyncio.sleep(PAUSE)


async def _stored(client: httpx.AsyncClient, peer: Peer, run: int) -> list[int]:
    """Page after page from the start, as the protocol's catch-up."""
    numbers: list[int] = []
    url, offset = _url(peer, peer.publish, run), "-1"
    while True:
        response = await client.get(url, params={"offset": offset}, timeout=10)
        if response.status_code != 200:
            raise Failed(f"a page was answered {response.status_code}: {response.text[:200]}")
        numbers += map(int, NUMBER.findall(response.text))
        offset = response.headers["Stream-Next-Offset"]
        if "Stream-Up-To-Date" in response.headers:
            return numbers


async def _caught_up(accounts: list[Account]) -> None:
    """Waits until every reader has what is stored, or for as long as is reasonable."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while any(account.tally()["missed"] for account in accounts):
        if asyncio.get_running_loop().time() > deadline:
            return
        await asyncio.sleep(PAUSE)
