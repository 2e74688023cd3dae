"""The database's clock jumps: who reads goes on, and who is dead is not waited for until the clock is there again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx

from gateway.log.migrations import migrate
from run_gateway.sse import Steps
from tests.failover.servers import Server, servers, until
from tests.faults.host import faked_clock
from tests.faults.scene import gateway
from tests.tools.clock import Clock

PATIENCE = 60
JSON = {"content-type": "application/json"}
TTL = 6
EXPIRES = "SELECT extract(epoch FROM expires_at - clock_timestamp()) FROM run_gateway.streams WHERE path = 'read'"


async def read_on(http: httpx.AsyncClient, path: str, given: list[int], began: asyncio.Event) -> None:
    parse = Steps()
    async with http.stream("GET", path, params={"offset": "-1", "live": "sse"}) as response:
        assert response.status_code == 200
        async for chunk in response.aiter_bytes():
            for step in parse.feed(chunk):
                given += [event for data in step.data for event in json.loads(data)]
                began.set()


async def jump(server: Server, clock: Clock, seconds: int) -> None:
    """Returns when the server's processes know, and a Machine has looked since."""
    before = await server.fetchval("SELECT clock_timestamp()")
    clock.set(seconds)
    direction = ">" if seconds > 0 else "<"
    await until(server, f"SELECT clock_timestamp() {direction} '{before}'::timestamptz + interval '{seconds // 2} s'")
    await until(server, "SELECT abs(extract(epoch FROM clock_timestamp() - at)) < 3 FROM run_gateway.lease_looks")


async def test_a_clock_that_jumps_ends_no_reader_and_keeps_no_dead(tmp_path: Path) -> None:
    faked_clock("+0")  # or there is none
    async with asyncio.timeout(PATIENCE), servers() as all_of_them:
        clock = Clock(all_of_them.folder / "clock")
        (all_of_them.folder / "clock").chmod(0o644)
        server = await all_of_them.primary(clock.env)
        await migrate(server.url)
        async with (
            gateway(server.url, heartbeat=1, housekeeping_interval=1) as running,
            httpx.AsyncClient(base_url=running.url, timeout=60) as http,
        ):
            for path in ("read", "unread"):
                created = await http.put(f"/v1/stream/{path}", headers={**JSON, "stream-ttl": str(TTL)}, content=b"[1]")
                assert created.status_code == 201
            given: list[int] = []
            began = asyncio.Event()
            reader = asyncio.create_task(read_on(http, "/v1/stream/read", given, began))
            await began.wait()
            await until(server, "SELECT count(*) = 1 FROM run_gateway.lease_looks")

            await jump(server, clock, 600)
            await until(server, f"SELECT ({EXPIRES}) > {TTL - 4}")  # its reader has been heard of
            await until(server, "SELECT count(*) = 0 FROM run_gateway.streams WHERE path = 'unread'")
            assert (await http.post("/v1/stream/read", headers=JSON, content=b"2")).status_code == 204
            while given != [1, 2]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            assert not reader.done()

            # A producer that dies, of whose run the clock then says that it has ten minutes.
            created = await http.post("/runs", json={"id": "dead", "lease": 5})
            assert created.status_code == 201
            assert (await http.post("/runs/dead", headers=JSON, content=b"1")).status_code == 204
            await jump(server, clock, -600)
            await until(server, "SELECT closed FROM run_gateway.streams WHERE path = 'runs/dead'")
            assert running.app._runs.leases.ended == 1
            reader.cancel()


async def test_a_crash_does_not_forget_when_somebody_had_looked() -> None:
    """By this an outage is known, however it began: what ran out in it has more time."""
    async with asyncio.timeout(PATIENCE), servers() as all_of_them:
        server = await all_of_them.primary()
        await migrate(server.url)
        await server.fetchval("SELECT more FROM run_gateway.end_lost_runs('m', 1, false)")
        looked = await server.fetchval("SELECT at FROM run_gateway.lease_looks")
        server.abort()
        await server.start()
        assert await server.fetchval("SELECT at FROM run_gateway.lease_looks") == looked
