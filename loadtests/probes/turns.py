"""How long the worst that one client can ask for keeps a Machine's loop in one turn (law 11: at most 20 ms).

    python -m loadtests.probes.turns                 # every case, a few minutes
    python -m loadtests.probes.turns --only text,json

A case makes one request, event, batch or crowd of readers as bad as the limits allow, against a real Machine whose loop
has the siege's probe in it. A turn counts by the CPU that it took. `longest` is that of all times that the case was
done, in ms; `seen` is where the Machine was in a turn of more than 10 ms. The exit code is 1 where one took over 20.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from gateway.embedded import EmbeddedPostgres
from gateway.log.migrations import migrate
from loadtests.probes.instants import CHAT, QUIET, agent
from loadtests.probes.worst import CASES, SETTINGS, Case, House
from loadtests.siege.machine import LONG
from loadtests.siege.machines import open_machines
from loadtests.siege.times import Turn, longest

TIMES = 3
BELOW = 0.001  # seconds: shorter turns are not written down
REST = 0.3  # seconds behind a case, in which what it has begun ends
DESCRIPTORS = 20_000


@click.command()
@click.option("--only", default="", help="Words, with commas between: only cases whose name holds one of them.")
@click.option("--times", default=TIMES, show_default=True, help="How often each is done.")
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
def main(only: str, times: int, markdown: bool) -> None:
    """Print the longest turn of the loop for each case."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    words = [word for word in only.split(",") if word]
    cases = [case for case in CASES if not words or any(word in case.name for word in words)]
    sys.exit(0 if asyncio.run(_measure(cases, times, markdown)) else 1)


async def _measure(cases: list[Case], times: int, markdown: bool) -> bool:
    row = "| {} | {} | {} |" if markdown else "{:70} {:>9}  {}"
    click.echo(row.format("case", "longest", "seen"))
    if markdown:
        click.echo("|---|---|---|")
    held = True
    os.environ["SIEGE_LONG"] = str(BELOW)
    os.environ["SIEGE_SUSPECT"] = "0.01"
    with TemporaryDirectory(prefix="run-gateway-turns-") as folder:
        async with EmbeddedPostgres(Path(folder) / "data") as postgres:
            await migrate(postgres.dsn)
            server = await asyncio.start_server(agent, "127.0.0.1", 0)
            upstream = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            relay = {"GATEWAY_RELAY": f"ai-sdk:{CHAT},ai-sdk:{QUIET}", "GATEWAY_RELAY_MAX_RECORDINGS": "10000"}
            settings = {**SETTINGS, **relay, "GATEWAY_UPSTREAM": upstream, "GATEWAY_OWNED": "/owned/runs/{id}"}
            async with server, open_machines(1, postgres.dsn, Path(folder), settings) as (machine,):
                house = House(machine.machine, postgres.dsn)
                try:
                    for case in cases:
                        worst = Turn(0, 0, 0, "")
                        for _ in range(times):
                            async with case.prepared(house) as act:
                                await asyncio.sleep(REST)
                                began = time.monotonic()
                                await act()
                                await asyncio.sleep(REST)
                                found = longest(machine.turns(), [(began, time.monotonic())])
                            worst = max(worst, found, key=lambda turn: turn.cpu)
                        held = held and worst.cpu <= LONG
                        click.echo(row.format(case.name, f"{1000 * worst.cpu:.1f} ms", worst.place))
                finally:
                    await house.close()
    return held


if __name__ == "__main__":
    main()
