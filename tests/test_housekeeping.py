"""Housekeeping by real Machines: one packs, whoever dies; and readers of what was removed are told so."""

from __future__ import annotations

import asyncio

import asyncpg
import httpx
import pytest

from gateway.log.database import Database
from gateway.log.housekeeping import Housekeeping, KeptElsewhere
from gateway.protocol.errors import Unavailable
from tests.log.rig import connected, holding, opened
from tests.machines import Machine
from tests.traffic import Reader

PATIENCE = 240
OFTEN = {"GATEWAY_HOUSEKEEPING_INTERVAL": "0.05"}
RUNS, EVENTS = 12, 5_000


async def fill(url: str) -> None:
    async with opened(url) as log:
        for run in range(RUNS):
            await log.create(f"runs/run-{run}")
            await log.append(f"runs/run-{run}", *[b'{"n":%d}' % n for n in range(1, EVENTS + 1)], close=True)


async def until(look: asyncpg.Connection[asyncpg.Record], question: str) -> None:
    while not await look.fetchval(f"SELECT {question}"):  # noqa: ASYNC110  a database tells nobody
        await asyncio.sleep(0.005)


ALL_PACKED = "NOT EXISTS (SELECT FROM run_gateway.events)"


async def test_a_kill_in_the_middle_of_packing_goes_unnoticed(
    database_url: str,
) -> None:
    async with asyncio.timeout(PATIENCE), connected(database_url) as look:
        await fill(database_url)
        async with Machine.start(database_url, env=OFTEN | {"GATEWAY_PAGE_BYTES": "4096"}) as a:
            readers = [Reader(mode, f"/runs/run-{n}", [a.url]) for n, mode in enumerate(("sse", "catch-up"))]
            tasks = [asyncio.create_task(reader.run()) for reader in readers]
            async with holding(database_url, f"runs/run-{RUNS - 1}"):  # which keeps it from its end, were we slow
                await until(look, "count(*) >= 5 FROM run_gateway.pages")
                await a.kill()
            assert not await look.fetchval(f"SELECT {ALL_PACKED}"), "it was in the middle"
            async with Machine.start(database_url, env=OFTEN, port=a.port) as b:
                tasks += [asyncio.create_task(Reader("sse", f"/runs/run-{n}", [b.url]).run()) for n in range(2, RUNS)]
                await look.execute("UPDATE run_gateway.housekeeping SET until = now()")  # its right has lapsed
                await until(look, ALL_PACKED)
                for given in await asyncio.gather(*tasks):
                    assert given == list(range(1, EVENTS + 1))
                for n in range(RUNS):
                    assert await Reader("catch-up", f"/runs/run-{n}", [b.url]).run() == list(range(1, EVENTS + 1))


async def test_of_two_machines_one_packs(database_url: str) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        connected(database_url) as look,
        Machine.start(database_url, env=OFTEN) as a,
        Machine.start(database_url, env=OFTEN) as b,
    ):
        await fill(database_url)
        await until(look, ALL_PACKED)
        while not any("Packed" in machine.log for machine in (a, b)):  # noqa: ASYNC110  it says so when it is done
            await asyncio.sleep(0.005)
        assert sum("Packed" in machine.log for machine in (a, b)) == 1


async def test_readers_of_a_run_past_its_retention_are_told_it_is_gone(database_url: str) -> None:
    env = OFTEN | {"GATEWAY_RETENTION": "3600", "GATEWAY_PAGE_BYTES": "1024"}
    async with (
        asyncio.timeout(PATIENCE),
        connected(database_url) as look,
        Machine.start(database_url, env=env) as a,
        httpx.AsyncClient(base_url=a.url, headers={"content-type": "application/json"}) as http,
    ):
        events = "[" + ",".join(f'{{"n":{n}}}' for n in range(1, 501)) + "]"
        for path in ("/runs/old", "/runs/source", "/runs/young"):
            assert (await http.put(path)).status_code == 201
            assert (await http.post(path, content=events, headers={"stream-closed": "true"})).status_code == 204
        fork = {"stream-forked-from": "/runs/source", "stream-fork-offset": "0000000000000000_0000000000000300"}
        assert (await http.put("/runs/fork", headers=fork)).status_code == 201
        await until(look, "count(*) = 2 FROM run_gateway.streams WHERE packed AND path IN ('runs/old', 'runs/source')")
        first = await http.get("/runs/old")
        assert (first.status_code, "stream-up-to-date" in first.headers) == (200, False)
        middle = first.headers["stream-next-offset"]

        await look.execute(
            "UPDATE run_gateway.streams SET closed_at = closed_at - interval '2 hours'"
            " WHERE path IN ('runs/old', 'runs/source')"
        )
        await until(look, "count(*) = 0 FROM run_gateway.streams WHERE path = 'runs/old' OR path IS NULL")
        for path, status in (("/runs/old", 404), ("/runs/source", 410)):
            for query in ("", f"?offset={middle}", f"?offset={middle}&live=sse", f"?offset={middle}&live=long-poll"):
                assert (await http.get(path + query)).status_code == status, query
            assert (await http.head(path)).status_code == status
            assert (await http.post(path, content="1")).status_code == status
        assert await look.fetchval("SELECT count(*) FROM run_gateway.runs WHERE id = 'old'") == 0, "its record went too"
        assert await Reader("sse", "/runs/young", [a.url]).run() == list(range(1, 501))
        assert (
            await http.post("/runs/fork", content='{"n":301}', headers={"stream-closed": "true"})
        ).status_code == 204
        assert await Reader("sse", "/runs/fork", [a.url]).run() == list(range(1, 302))


async def test_an_outage_is_told_of_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    outcomes: list[Exception | None] = [
        None, Unavailable(), Unavailable(), KeptElsewhere(), None, Unavailable(), None,  # that one is not told
        Unavailable(), Unavailable(), RuntimeError("a defect"), None,
    ]  # fmt: skip
    done = asyncio.Event()

    class Rounds(Housekeeping):
        async def round(self) -> None:
            if not outcomes:
                done.set()
            elif (outcome := outcomes.pop(0)) is not None:
                raise outcome

    running = asyncio.create_task(
        Rounds(Database("", pool_size=1, statement_timeout=1), machine="m", interval=0.001).run()
    )
    async with asyncio.timeout(PATIENCE):
        await done.wait()
    running.cancel()
    await asyncio.wait([running])
    waits, goes_on = "Housekeeping waits for the database (None).", "Housekeeping goes on."
    failed = "Housekeeping failed unexpectedly; the next turn tries again."
    assert caplog.messages == [waits, goes_on, waits, failed, goes_on]
