"""A database that goes away and comes back: the runs of those who live go on, and only those of the dead are ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httpx

from tests.databases import OwnPostgres
from tests.machines import Machine

LEASE = 4  # seconds: a retry that was put off for three of them is in time


async def test_an_outage_longer_than_a_lease_ends_no_living_run(
    own_postgres: Callable[[], Awaitable[OwnPostgres]],
) -> None:
    server = await own_postgres()
    beating = True
    async with Machine.start(server.url) as machine, httpx.AsyncClient(base_url=machine.url, timeout=60) as http:

        async def beat(run: str) -> list[int]:
            """As a producer does that waits as long as it is told to."""
            answers: list[int] = []
            while beating:
                answer = await http.post(f"/runs/{run}/heartbeat")
                answers.append(answer.status_code)
                await asyncio.sleep(float(answer.headers.get("retry-after", LEASE / 4)))
            return answers

        runs = [f"run-{number}" for number in range(8)]
        for run in (*runs, "dead"):
            assert (await http.post("/runs", json={"id": run, "lease": LEASE})).status_code == 201
        producers = [asyncio.create_task(beat(run)) for run in runs]
        await server.stop("immediate")
        await asyncio.sleep(LEASE + 1.5)
        await server.start()
        ended = await http.get("/runs/dead?meta&wait=60", timeout=70)
        while ended.status_code == 503:
            await asyncio.sleep(0.1)
            ended = await http.get("/runs/dead?meta&wait=60", timeout=70)
        assert ended.json()["error"]["name"] == "ProducerLost"
        beating = False
        for answers in await asyncio.gather(*producers):
            assert set(answers) == {204, 503}
