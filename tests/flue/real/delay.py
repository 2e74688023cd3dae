"""How late events of a run on Flue A are for readers elsewhere: `python -m tests.flue.real.delay`.

The run's events say when they were made. Two ways to read, three places to read from, a run each; medians and the
largest, of events that were made after the reader had come.
"""

from __future__ import annotations

import asyncio
from statistics import median
from typing import Any

from tests.cli.commands import command
from tests.databases import session_postgres
from tests.flue.real.house import House, furnished
from tests.flue.real.rig import follow, invoke

TICKS = 100
WAYS = {"stream": "long-poll (the SDK's default)", "sse": "SSE"}


async def _delays(script: Any) -> list[float]:
    """Milliseconds from an event's making to its arrival."""
    return [
        line["at"] - line["item"]["attributes"]["emittedAt"]
        for line in await script.end(timeout=120)
        if "item" in line and line["item"]["type"] == "log"
    ][10:]


async def main() -> None:
    """Prints the table."""
    async with session_postgres() as postgres, furnished(postgres) as house:
        print("| read at | by | events that came | median ms | largest ms |\n|---|---|---|---|---|")
        await _rows(house, "Flue A, where it runs", house.flue_a.url)
        await _rows(house, "Flue B", house.flue_b.url)
        await _rows(house, "gateway B, by polling", house.b.url)
        assert (await command("flue", "attach", DATABASE_URL=house.database_url)).code == 0
        await house.b.restart()
        await _rows(house, "gateway B, by triggers", house.b.url)


async def _rows(house: House, place: str, url: str) -> None:
    for how, title in WAYS.items():
        run = await invoke(house.flue_a, "ticker", n=TICKS, intervalMs=100)
        async with follow(url, run, how) as script:
            delays = await _delays(script)
        shown = f"{median(delays):.0f} | {max(delays):.0f}" if delays else "– | –"
        print(f"| {place} | {title} | {len(delays)} of {TICKS - 10} | {shown} |", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
