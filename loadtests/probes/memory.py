"""How much memory a Machine takes with so many idle readers: whether they fit the one that fly.toml asks for.

    python -m loadtests.probes.memory 0 1000 2000 5000

Each line is a Machine of its own, over one Postgres, whose memory is not counted: it is elsewhere, in production. The
readers follow over SSE, on a connection each, one run for every five; afterwards each is sent an event, so that they
were all there. `resident` is what the process then holds, `peak` the most that it held meanwhile.
"""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import httpx

from gateway.embedded import EmbeddedPostgres
from gateway.log.migrations import migrate
from gateway.process.machine import Machine

READERS_A_RUN = 5
AT_ONCE = 100  # connections that are being opened
SETTLE = 2.0  # seconds until what was allocated for beginning is given back
MEGABYTE = 1 << 20


@click.command()
@click.argument("readers", type=int, nargs=-1, required=True)
@click.option("--max-age", type=int, default=3600, help="GATEWAY_SSE_MAX_AGE: readers stay while they are counted.")
def main(readers: tuple[int, ...], max_age: int) -> None:
    """Print the resident memory of a Machine with each of these numbers of READERS."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(readers) + 1_000
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise click.ClickException(f"{wanted} descriptors are needed and {hard} allowed: ulimit -n {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    click.echo("readers  resident MB  peak MB  kB a reader")
    asyncio.run(_measure(readers, max_age))


async def _measure(counts: tuple[int, ...], max_age: int) -> None:
    with TemporaryDirectory(prefix="run-gateway-memory-") as folder:
        async with EmbeddedPostgres(Path(folder)) as postgres:
            await migrate(postgres.dsn)
            none = 0.0
            for count in counts:
                resident, peak = await _held(postgres.dsn, count, max_age)
                none = none or (resident if count == 0 else 0.0)
                each = f"{(resident - none) / count * 1024:.1f}" if count and none else "-"
                click.echo(f"{count:7d}  {resident:11.0f}  {peak:7.0f}  {each:>11}")


async def _held(database: str, count: int, max_age: int) -> tuple[float, float]:
    """Megabytes that a Machine holds with so many readers, and held at most."""
    machine = Machine({"DATABASE_URL": database, "GATEWAY_SSE_MAX_AGE": str(max_age)})
    await machine.launch()
    connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    try:
        async with httpx.AsyncClient(base_url=machine.url, timeout=60) as http:
            runs = [f"/runs/memory-{machine.pid}-{number}" for number in range(max(1, count // READERS_A_RUN))]
            for run in runs:
                (await http.put(run, headers={"content-type": "application/json"})).raise_for_status()
            gate = asyncio.Semaphore(AT_ONCE)

            async def follow(run: str) -> None:
                async with gate:
                    reader, writer = await asyncio.open_connection("127.0.0.1", machine.port, limit=4096)
                    connections.append((reader, writer))
                    writer.write(f"GET {run}?offset=-1&live=sse HTTP/1.1\r\nhost: memory\r\n\r\n".encode())
                    await reader.readuntil(b'"upToDate":true')

            await asyncio.gather(*(follow(runs[number % len(runs)]) for number in range(count)))
            await asyncio.sleep(SETTLE)
            held = _memory(machine.pid, "VmRSS"), _memory(machine.pid, "VmHWM")
            for run in runs[:count]:
                await http.post(run, headers={"content-type": "application/json"}, content=b'"there"')
            async with asyncio.timeout(60):
                await asyncio.gather(*(reader.readuntil(b'"there"') for reader, _ in connections))
            return held
    finally:
        for _, writer in connections:
            writer.close()
        await machine.kill()


def _memory(pid: int, field: str) -> float:
    """Megabytes, as Linux counts them."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) * 1024 / MEGABYTE


if __name__ == "__main__":
    main()
