"""How many events a second producers in one region bring into the log, when they do not wait for each.

`python -m loadtests.regions.producers PID URL`, of a region and its Machine. Prints what it has measured as JSON:
events a second by way.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time

import httpx

from gateway.client import Run
from loadtests.regions.network import enter

RUNS = 10
EVENTS = 200  # of each run
PACE = 0.05  # seconds between two of them
IN_FLIGHT = (8, 64)  # POSTs of one event each, of as many runs
POSTS = 6  # of each of those
TEXT = "x" * 60
JSON = {"content-type": "application/json"}


async def emitted(url: str) -> float:
    """By the Python client: runs of one process, whose events go together while a request is under way. From the first
    event until all are in the log.
    """
    begun = asyncio.Barrier(RUNS)
    began = 0.0

    async def record(number: int) -> float:
        nonlocal began
        async with Run(f"{url}/runs/rate-{secrets.token_hex(4)}-{number}") as run:
            await begun.wait()
            began = began or time.perf_counter()
            for n in range(EVENTS):
                await run.emit({"n": n, "text": TEXT})
                await asyncio.sleep(max(0.0, began + (n + 1) * PACE - time.perf_counter()))
            await run.flush()
            return time.perf_counter()

    async with asyncio.TaskGroup() as tasks:
        ends = [tasks.create_task(record(number)) for number in range(RUNS)]
    return RUNS * EVENTS / (max(end.result() for end in ends) - began)


async def posted(url: str, in_flight: int) -> float:
    """By POSTs of one event, so many at a time, each of a run of its own."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits, trust_env=False) as http:
        runs = [f"/runs/rate-{secrets.token_hex(4)}" for _ in range(in_flight)]

        async def post(run: str, times: int) -> None:
            for n in range(times):
                answer = await http.post(run, headers=JSON, content=json.dumps({"n": n, "text": TEXT}))
                assert answer.status_code == 204, answer.text

        async def all_of_them(times: int) -> None:
            async with asyncio.TaskGroup() as tasks:
                for run in runs:
                    tasks.create_task(post(run, times))

        made = await asyncio.gather(*(http.put(run, headers=JSON) for run in runs))
        assert all(answer.status_code == 201 for answer in made)
        await all_of_them(1)  # so that all connections are there
        began = time.perf_counter()
        await all_of_them(POSTS)
        return in_flight * POSTS / (time.perf_counter() - began)


async def _main(url: str) -> None:
    rates = {"Run of the client": await emitted(url)}
    for in_flight in IN_FLIGHT:
        rates[f"{in_flight} POSTs in flight"] = await posted(url, in_flight)
    print(json.dumps(rates))


if __name__ == "__main__":
    enter(int(sys.argv[1]))
    asyncio.run(_main(sys.argv[2]))
