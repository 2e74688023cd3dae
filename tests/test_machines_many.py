"""Readers of many streams, and Machines that die: each event of each stream comes once, wherever they go on."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from typing import Any

import httpx

from tests.event_source import read
from tests.machines import Machine

PATIENCE = 240
STREAMS = [f"runs/many-{n}" for n in range(30)]
EACH = 25  # events


class ReaderOfMany:
    """An EventSource for many streams: goes on at the next Machine from the last id, until it is told to stop."""

    def __init__(self, *machines: Machine) -> None:
        self.given: dict[str, list[int]] = {stream: [] for stream in STREAMS}
        self.ends = 0
        self.connections = 0
        self._machines = machines
        self._id = ""

    async def run(self) -> None:
        while True:
            machine = self._machines[self.connections % len(self._machines)]
            self.connections += 1
            headers = {"last-event-id": self._id} if self._id else {}
            with suppress(httpx.HTTPError):
                body = {"streams": STREAMS}
                async with (
                    httpx.AsyncClient(timeout=30) as http,
                    http.stream("POST", f"{machine.url}/v1/stream?live=sse", json=body, headers=headers) as response,
                ):
                    if response.status_code == 204:
                        return
                    received = b""
                    async for piece in response.aiter_raw():
                        whole, ended, received = (received + piece).rpartition(b"\n\n")
                        for event in read(whole + ended).events:
                            self._id = event.last_event_id or self._id
                            for part in json.loads(event.data):
                                self._hear(part)
            await asyncio.sleep(0.02)

    def _hear(self, part: dict[str, Any]) -> None:
        self.given[part["stream"]] += [event["n"] for event in part.get("events", [])]
        self.ends += part.get("streamClosed", False)


async def write(machine: Machine, under_way: asyncio.Event) -> None:
    chance = random.Random(17)
    async with httpx.AsyncClient(base_url=machine.url, timeout=30) as http:
        left = [(stream, n) for n in range(EACH) for stream in chance.sample(STREAMS, len(STREAMS))]
        for done, (stream, n) in enumerate(left):
            if done == len(left) // 3:
                under_way.set()
            closing = {"stream-closed": "true"} if n == EACH - 1 else {}
            answer = await http.post(f"/{stream}", json={"n": n}, headers=closing)
            assert answer.status_code == 204, answer.text


async def test_readers_of_many_streams_go_on_when_a_machine_is_killed(database_url: str) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        Machine.start(database_url) as writing,
        Machine.start(database_url) as dying,
        Machine.start(database_url) as other,
    ):
        async with httpx.AsyncClient(base_url=writing.url, timeout=30) as http:
            for stream in STREAMS:
                await http.put(f"/{stream}", headers={"content-type": "application/json"})
        readers = [ReaderOfMany(dying, other), ReaderOfMany(dying, writing), ReaderOfMany(other, dying)]
        under_way = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for reader in readers:
                tasks.create_task(reader.run())
            tasks.create_task(write(writing, under_way))
            await under_way.wait()
            await dying.kill()
    for reader in readers:
        assert all(given == list(range(EACH)) for given in reader.given.values())
        assert reader.ends == len(STREAMS), "each end is told once"
    assert all(reader.connections > 1 for reader in readers)
