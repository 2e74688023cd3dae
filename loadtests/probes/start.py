"""How long a Machine takes from exec until /ready says so, beside a database that is there, and with what.

    python -m loadtests.probes.start
    python -m loadtests.probes.start --beside ../older    # another checkout in turn with this one: ratios in one run

`ready`: seconds until /ready is 200; `CPU`: of the process by then; `modules`, `imports`: what `import gateway.app` and
the like add to an interpreter, and the CPU seconds that it takes. Medians; bytecode is there, as in an image.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import click
import httpx

from loadtests.bench.postgres import Postgres
from loadtests.bench.processes import cpu, free_port, kill

IMPORTS: Final = """
import sys, time
before, began = len(sys.modules), time.process_time()
import gateway.cli.serve, gateway.process.serve, gateway.process.server, gateway.app
print(len(sys.modules) - before, time.process_time() - began)
"""
SERVE: Final = "from gateway.cli import main; main()"
PATIENCE: Final = 60.0


@click.command()
@click.option("--rounds", type=int, default=5, show_default=True)
@click.option("--beside", type=click.Path(exists=True, path_type=Path), help="Another checkout.")
def main(rounds: int, beside: Path | None) -> None:
    """Print the medians."""
    sources = {"this": Path(__file__).parents[2], **({"beside": beside.absolute()} if beside else {})}
    click.echo(f"{'':8} {'ready':>8} {'CPU':>8} {'modules':>8} {'imports':>9}")
    asyncio.run(_measure(sources, rounds))


async def _measure(sources: dict[str, Path], rounds: int) -> None:
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in sources}
    with TemporaryDirectory(prefix="run-gateway-start-") as folder:
        async with Postgres(Path(folder) / "data") as postgres:
            databases = {name: await postgres.create() for name in sources}
            for number in range(rounds + 1):
                for name, source in sources.items():
                    env = os.environ | {
                        "PYTHONPATH": str(source),
                        "PYTHONPYCACHEPREFIX": f"{folder}/{name}",
                        "PYTHONDONTWRITEBYTECODE": "",
                    }
                    times = (*await _ready(databases[name], env), *await _imports(env))
                    if number:  # the first has written the bytecode, and migrated the database
                        found[name].append(times)
    for name, rows in found.items():
        ready, used, modules, imports = map(statistics.median, zip(*rows, strict=True))
        click.echo(f"{name:8} {ready:6.2f} s {used:6.2f} s {modules:8.0f} {imports:7.2f} s")


async def _ready(database: str, env: dict[str, str]) -> tuple[float, float]:
    port = free_port()
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-c", SERVE, "serve", "--port", str(port)),
        env=env | {"DATABASE_URL": database, "GATEWAY_DRAIN_TIMEOUT": "0"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(PATIENCE), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            while True:
                try:
                    if (await http.get("/ready")).status_code == 200:
                        break
                except httpx.TransportError:
                    await asyncio.sleep(0.005)
        ready = time.monotonic() - began
        return ready, cpu([process.pid]).total
    finally:
        await kill(process)


async def _imports(env: dict[str, str]) -> tuple[float, float]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", IMPORTS, env=env, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    modules, seconds = out.split()
    return float(modules), float(seconds)


if __name__ == "__main__":
    main()
