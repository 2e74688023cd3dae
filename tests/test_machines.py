"""Several Machines as real processes over one Postgres: what one appends every other delivers, whatever dies."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest

from gateway.log.migrations import migrate
from tests.databases import OwnPostgres
from tests.machines import Machine
from tests.tools.database import Database
from tests.tools.proxy import Proxy
from tests.traffic import MODES, Reader, Writer, under_way

PATH = "/runs/run-1"
# Seconds that a whole test may take; a reader that waits for ever is a failure, not a hang.
PATIENCE = 240


@asynccontextmanager
async def machines(count: int, database_url: str) -> AsyncIterator[list[Machine]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Machine.start(database_url)) for _ in range(count)]


def urls(*fleet: Machine) -> list[str]:
    return [machine.url for machine in fleet]


@pytest.mark.parametrize("count", [2, 3])
async def test_what_one_machine_appends_all_deliver_in_all_modes(database_url: str, count: int) -> None:
    async with asyncio.timeout(PATIENCE), machines(count, database_url) as (first, *others):
        writer = Writer(PATH, urls(first))
        await writer.create()
        readers = [Reader(mode, PATH, urls(machine)) for mode in MODES for machine in others]
        async with asyncio.TaskGroup() as tasks:
            for reader in readers:
                tasks.create_task(reader.run())
            tasks.create_task(writer.write(100, pause=0.002))
        for reader in readers:
            assert reader.given == list(range(1, 101)), reader.mode


async def test_readers_of_a_machine_that_is_killed_go_on_at_another(database_url: str) -> None:
    async with asyncio.timeout(PATIENCE), machines(2, database_url) as (a, b):
        writer = Writer(PATH, urls(b))
        await writer.create()
        readers = [Reader(mode, PATH, urls(a, b)) for mode in MODES]
        async with under_way(writer, readers, 150, pause=0.01):
            await a.kill()


async def test_a_killed_machines_writer_resumes_elsewhere_exactly_once(
    database_url: str,
) -> None:
    async with asyncio.timeout(PATIENCE), machines(2, database_url) as (a, b):
        writer = Writer(PATH, urls(a, b))
        await writer.create()
        reader = Reader("sse", PATH, urls(b))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(reader.run())
            tasks.create_task(writer.write(150))
            await reader.reached(50)
            await a.kill()
        assert reader.given == list(range(1, 151))


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_of_postgres_loses_and_repeats_nothing(
    own_postgres: Callable[[], Awaitable[OwnPostgres]], mode: str
) -> None:
    server = await own_postgres()
    await migrate(server.url)
    async with asyncio.timeout(PATIENCE), machines(2, server.url) as (a, b):
        writer = Writer(PATH, urls(a))
        await writer.create()
        readers = [Reader(mode, PATH, urls(b, a)) for mode in MODES]
        async with under_way(writer, readers, 150, pause=0.01):
            await server.restart("immediate" if mode == "immediate" else "fast")
        assert "Traceback" not in a.log + b.log, "a restart is no surprise: a line says all"


async def test_a_machine_that_is_stopped_ends_every_reader_cleanly(database_url: str) -> None:
    async with asyncio.timeout(PATIENCE), machines(2, database_url) as (a, b):
        writer = Writer(PATH, urls(b))
        await writer.create()
        readers = [Reader(mode, PATH, urls(a, b)) for mode in MODES for _ in range(5)]
        async with under_way(writer, readers, 150, pause=0.02):
            assert await a.terminate() == 0


async def test_a_deleted_stream_ends_its_readers_on_every_machine(database_url: str) -> None:
    async with asyncio.timeout(PATIENCE), machines(2, database_url) as (a, b):
        writer = Writer(PATH, urls(a))
        await writer.create()
        await writer.write(3, close=False)
        async with httpx.AsyncClient() as http:
            async with http.stream("GET", b.url + PATH, params={"offset": "-1", "live": "sse"}) as response:
                chunks = response.aiter_bytes()
                await anext(chunks)
                assert (await http.delete(a.url + PATH)).status_code == 204
                assert [chunk async for chunk in chunks if chunk] == []
            assert (await http.get(b.url + PATH)).status_code == 404


@pytest.mark.parametrize("query", [{"offset": "-1"}, {"offset": "-1", "live": "sse"}])
async def test_a_drain_sends_reads_of_a_silent_database_elsewhere(database_url: str, query: dict[str, str]) -> None:
    database = Database(database_url, None)
    async with (
        asyncio.timeout(PATIENCE),
        Proxy(database.socket) as proxy,
        Machine.start(database.through(proxy.port)) as machine,
        httpx.AsyncClient(timeout=30) as http,
    ):
        await Writer(PATH, urls(machine)).create()
        with proxy.silence():
            before = proxy.turns
            reading = asyncio.create_task(http.get(machine.url + PATH, params=query))
            while proxy.turns == before:  # noqa: ASYNC110  until the log has been asked
                await asyncio.sleep(0.01)
            machine.send_signal(signal.SIGTERM)
            response = await reading
        assert response.status_code == 503
        assert response.json()["error"]["type"] == "draining"
