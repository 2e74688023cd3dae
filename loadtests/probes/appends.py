"""`python -m loadtests.probes.appends`: what each of the SQL's four ways of an append costs.

Inside of the server, in one session: without a round trip, a commit or a notification, which all ways have alike. The
ways take turns; the least of their rounds, in microseconds a request, which other work on the machine disturbs least.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg
import click

from gateway.log.migrations import migrate
from loadtests.bench.postgres import Postgres

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

STREAMS: Final = 256
REQUESTS: Final = 512  # in a round, of each way
SIZES: Final = (1, 2, 16, 64)  # requests in a call

WAYS: Final = {
    "append_alone": "append_alone(paths[1], type, ARRAY[event], NULL)",
    "append_one": "append_one(paths[1], type, false, NULL, NULL, NULL, NULL, ARRAY[event], NULL)",
    "append_plain": "append_plain(paths, type, 1, numbers, ones, events)",
    "append_batch": "append_batch(paths, types, ones, none, NULL, NULL, NULL, NULL, numbers, ones, events, NULL)",
}
LOOP: Final = """
CREATE OR REPLACE FUNCTION pg_temp.took(n integer, calls integer) RETURNS double precision LANGUAGE plpgsql AS $took$
DECLARE
    every   text[]    := ARRAY(SELECT 'runs/' || lpad(i::text, 3, '0') FROM generate_series(0, {streams} - 1) i);
    type    text      := 'application/json';
    event   bytea     := '{{"type":"token","text":"abcdefghijklmnopqrstuvwxyz"}}';
    types   text[]    := array_fill(type, ARRAY[n]);
    events  bytea[]   := array_fill(event, ARRAY[n]);
    numbers integer[] := ARRAY(SELECT generate_series(1, n));
    ones    integer[] := array_fill(1, ARRAY[n]);
    none    boolean[] := array_fill(false, ARRAY[n]);
    began   timestamptz := clock_timestamp();
    paths   text[];
BEGIN
    FOR i IN 1..calls LOOP
        paths := every[i * n % {streams} + 1 : i * n % {streams} + n];
        PERFORM run_gateway.{call};
    END LOOP;
    RETURN extract(epoch FROM clock_timestamp() - began);
END
$took$
"""


async def price(connection: Connection, call: str, n: int) -> float:
    """Microseconds a request, `n` of them in a call."""
    await connection.execute(LOOP.format(streams=STREAMS, call=call))
    took = await connection.fetchval("SELECT pg_temp.took($1, $2)", n, REQUESTS // n)
    return float(took) * 1e6 / REQUESTS


async def measure(connection: Connection, rounds: int) -> None:
    await connection.execute(
        "INSERT INTO run_gateway.streams (path, media_type, content_type) SELECT 'runs/' || lpad(n::text, 3, '0'),"
        f" 'application/json', 'application/json' FROM generate_series(0, {STREAMS - 1}) n"
    )
    for n in SIZES:
        took: dict[str, list[float]] = {way: [] for way in WAYS if n == 1 or way in ("append_plain", "append_batch")}
        for _ in range(rounds):
            for way, times in took.items():
                times.append(await price(connection, WAYS[way], n))
            await connection.execute("TRUNCATE run_gateway.events")
            await connection.execute("VACUUM run_gateway.streams")
        print(f"{n:3} in a call:", ", ".join(f"{way} {min(times):.1f}" for way, times in took.items()))


async def run(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with Postgres(Path(folder) / "data") as server:
            address = await server.create()
            await migrate(address)
            connection = await asyncpg.connect(address)
            print(f"Postgres {server.version}; µs a request, least of {rounds} rounds")
            await measure(connection, rounds)
            await connection.close()


@click.command(help=__doc__)
@click.option("--rounds", default=40, show_default=True)
def main(rounds: int) -> None:
    asyncio.run(run(rounds))


if __name__ == "__main__":
    main()
