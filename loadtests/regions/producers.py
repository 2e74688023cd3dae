"""How many events a second producers in one region bring into the log, when they do not wait for each.

`python -m loadtests.regions.producers PID PORT FOLDER [make]` of a region and its Machine; the folder has the bench's
`writers`. `make`: the runs are made first. Prints what it has measured as JSON: events a second by way.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from pathlib import Path

from gateway.client import Run
from loadtests.bench.clients.program import Program
from loadtests.regions.network import enter

RUNS = 10
EVENTS = 200  # of each run
PACE = 0.05  # seconds between two of them
IN_FLIGHT = ((64, 1), (1_024, 1), (4_096, 1), (512, 100))  # POSTs, of as many runs; the events of each
MOST = max(count for count, _ in IN_FLIGHT)
WARM_UP, SECONDS = 3.0, 4.0
PATIENCE = 120.0
TEXT = "x" * 60


async def emitted(url: str) -> float:
    """By the Python client: runs of one process, whose events go together while a request is under way. From the first
    event until all are in the log.
    """
    begun = asyncio.Barrier(RUNS)
    began = 0.0

    async def record(number: int) -> float:
        nonlocal began
        async with Run(f"{url}/runs/emitted-{secrets.token_hex(4)}-{number}") as run:
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


async def rate(program: Path, **options: object) -> float:
    """Of one of the bench's clients."""
    async with Program.start(program, **options) as client:
        await asyncio.sleep(WARM_UP)
        await client.ask("mark", PATIENCE)
        await asyncio.sleep(SECONDS)
        told = await client.ask("stats", PATIENCE)
    events: int = told["events"]
    seconds: float = told["seconds"]
    return events / seconds


async def make(port: int, folder: Path) -> None:
    """Makes the runs that are written to."""
    options = {"port": port, "path": "/runs/rate-%r", "connections": 16, "runs": MOST, "method": "PUT"}
    async with Program.start(folder / "writers", **options, once=1) as client:
        await client.line(PATIENCE)


async def _main(port: int, folder: Path, *first: str) -> None:
    if first:
        await make(port, folder)
    rates = {"Run of the client": await emitted(f"http://127.0.0.1:{port}")}
    for count, batch in IN_FLIGHT:
        options = {"port": port, "path": "/runs/rate-%r", "connections": count, "runs": count, "batch": batch}
        name = f"{count:,} POSTs{'' if batch == 1 else f' of {batch}'} in flight"
        rates[name] = await rate(folder / "writers", **options)
    print(json.dumps(rates))


if __name__ == "__main__":
    enter(int(sys.argv[1]))
    asyncio.run(_main(int(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:]))
