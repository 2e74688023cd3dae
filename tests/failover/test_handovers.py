"""A server takes over that has everything: it costs readers and writers nothing but the pause."""

from __future__ import annotations

import asyncio

import httpx

from gateway.log.migrations import migrate
from tests.failover.servers import servers
from tests.faults.network import distant
from tests.faults.scene import gateway, traffic

PATIENCE = 240
JSON = {"content-type": "application/json"}


async def test_a_synchronous_standby_has_all_that_was_acknowledged() -> None:
    async with asyncio.timeout(PATIENCE), servers() as all_of_them:
        primary = await all_of_them.primary()
        await migrate(primary.url)
        standby = await all_of_them.standby(primary, synchronous=True)
        async with (
            distant(primary.url) as (proxy, url),
            gateway(url, heartbeat=1) as a,
            gateway(url, heartbeat=1) as b,
            traffic([a.url, b.url]) as scene,
        ):
            primary.kill()
            await standby.configure(synchronous_standby_names="")
            await standby.promote()
            proxy.target = f"tcp://127.0.0.1:{standby.port}"
            proxy.cut()
            await scene.goes_on(20)
            assert a.app._database.switches == b.app._database.switches == 1
            assert a.app._log.reader.gone == b.app._log.reader.gone == 0
            assert a.app._log.missing_events == b.app._log.missing_events == 0


async def test_a_managed_handover_is_a_pause() -> None:
    """Read-only for a moment, then shut down in order, then another server at the same address."""
    async with asyncio.timeout(PATIENCE), servers() as all_of_them:
        primary = await all_of_them.primary()
        await migrate(primary.url)
        standby = await all_of_them.standby(primary)
        async with (
            distant(primary.url) as (proxy, url),
            gateway(url, heartbeat=1) as running,
            traffic([running.url]) as scene,
        ):
            await primary.configure(default_transaction_read_only="on")
            refused = running.app._log.writer.outcomes["refused"]
            while running.app._log.writer.outcomes["refused"] == refused:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            await asyncio.to_thread(primary.shut_down)
            await standby.promote()
            await standby.configure(default_transaction_read_only="off")
            proxy.target = f"tcp://127.0.0.1:{standby.port}"
            proxy.cut()
            await scene.goes_on(20)
            assert running.app._log.reader.gone == running.app._log.missing_events == 0


async def test_a_standby_at_the_address_is_no_loss() -> None:
    """It lags, and may be promoted or not: who is ahead of it is asked to wait, and nothing is written there."""
    async with asyncio.timeout(PATIENCE), servers() as all_of_them:
        primary = await all_of_them.primary()
        await migrate(primary.url)
        standby = await all_of_them.standby(primary)
        async with (
            distant(primary.url) as (proxy, url),
            gateway(url, heartbeat=1) as running,
            httpx.AsyncClient(base_url=running.url, timeout=60) as http,
        ):
            assert (await http.put("/runs/a", headers=JSON)).status_code == 201
            await standby.has_all_of(primary)
            await standby.stop_following()
            ahead = (await http.post("/runs/a", headers=JSON, content=b'{"n":1}')).headers["stream-next-offset"]
            proxy.target = f"tcp://127.0.0.1:{standby.port}"
            proxy.cut()
            statuses = {(await http.get("/runs/a", params={"offset": ahead})).status_code for _ in range(3)}
            assert statuses == {503}
            refused = await http.post("/runs/a", headers=JSON, content=b'{"n":2}')
            assert (refused.status_code, refused.json()["error"]["type"]) == (503, "not_writable")
            proxy.target = f"tcp://127.0.0.1:{primary.port}"
            proxy.cut()
            while (await http.post("/runs/a", headers=JSON, content=b'{"n":2}')).status_code == 503:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert (await http.get("/runs/a", params={"offset": ahead})).json() == [{"n": 2}]
            assert running.app._database.switches == 0
