"""Many readers of one run: they are sent its events in one system call where there is io_uring, else one by one."""

from __future__ import annotations

import asyncio
import json
import random

import httpx
import pytest

from gateway.fanout.uring import NoUring, Uring
from tests.event_source import read
from tests.faults.host import unless_ci
from tests.http.answers import JSON
from tests.servers import Running, body_of, serving, until

READERS = 30  # of each run, of which FEWER are cut off at every turn
FEWER = 5
TURNS = 12


class Reader:
    """Follows a run until it ends, or is cut off."""

    def __init__(self, run: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.run = run
        self._reader = reader
        self._writer = writer

    @classmethod
    async def of(cls, run: str, gateway: Running) -> Reader:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"GET /runs/%b?offset=-1&live=sse HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % run.encode())
        return cls(run, reader, writer)

    def cut(self) -> None:
        self._writer.transport.abort()

    async def events(self) -> list[object]:
        """All that it was sent, once its response has ended."""
        async with asyncio.timeout(60):
            body = body_of(await self._reader.read())
        self._writer.close()
        return [event for each in read(body).events if each.type == "data" for event in json.loads(each.data)]


@pytest.mark.parametrize("io_uring", [True, False])
async def test_readers_get_their_own_run_whoever_had_their_descriptor(database_url: str, io_uring: bool) -> None:
    """At every turn some are cut off, and readers of the other run come, who are given their descriptors."""
    chance = random.Random(io_uring)
    try:
        Uring().close()
    except NoUring as reason:
        unless_ci(f"there is no io_uring here: {reason}")
    with serving(database_url, "direct", io_uring=io_uring) as gateway:
        assert gateway.app._broadcast.at_once == io_uring
        async with httpx.AsyncClient(base_url=gateway.url) as http:
            for run in "ab":
                (await http.put(f"/runs/{run}", headers=JSON)).raise_for_status()
            readers = [await Reader.of(run, gateway) for run in "ab" * READERS]
            for turn in range(TURNS):
                await until(lambda: gateway.app._hub.followers == {"following": 2 * READERS, "catching_up": 0})
                chance.shuffle(readers)
                for reader in readers[:FEWER]:
                    reader.cut()
                for run in "ab":
                    (await http.post(f"/runs/{run}", json=[run, turn])).raise_for_status()
                coming = [await Reader.of("ab"[reader.run == "a"], gateway) for reader in readers[:FEWER]]
                readers[:FEWER] = coming
            for run in "ab":
                (await http.post(f"/runs/{run}", headers={"Stream-Closed": "true"})).raise_for_status()
            sent = await asyncio.gather(*(reader.events() for reader in readers))
    for reader, events in zip(readers, sent, strict=True):
        assert events == [value for turn in range(TURNS) for value in (reader.run, turn)]
