"""Connections that are cut, lost without a word, slow or held up: to clients, to the pool and to the listener."""

from __future__ import annotations

import asyncio
import logging
import time

import httpx
import pytest

from tests.faults.network import distant
from tests.faults.scene import PATH, gateway, traffic
from tests.tools.proxy import End, Proxy

PATIENCE = 240  # seconds for a whole test


async def test_a_half_open_client_resumes_at_the_next_machine(database_url: str) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        gateway(database_url, heartbeat=0.5, long_poll_timeout=1) as running,
        Proxy(running.url) as proxy,
        traffic([running.url], [proxy.url], patience=2) as scene,
    ):
        for _ in range(2):
            assert proxy.lose() > 0
            await scene.goes_on()


async def test_connections_cut_in_mid_frame_lose_and_repeat_nothing(database_url: str) -> None:
    cuts: list[tuple[End, bytes]] = [("reset", b'"n":'), ("end", b"event: control"), ("reset", b'upToDate":true')]
    async with (
        asyncio.timeout(PATIENCE),
        gateway(database_url) as running,
        Proxy(running.url) as proxy,
        traffic([proxy.url]) as scene,
    ):
        for end, pattern in cuts:
            await proxy.cut_before(pattern, end).sprung()
            await scene.goes_on()
        proxy.cut("reset")


async def test_a_proxy_that_buffers_delays_and_loses_nothing(database_url: str) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        gateway(database_url, sse_max_age=3) as running,
        Proxy(running.url) as proxy,
    ):
        proxy.latency = 1  # in lumps of all that came within a second, whatever they hold
        async with traffic([running.url], [proxy.url]) as scene:
            await scene.goes_on(40)


async def test_a_database_that_is_lost_without_a_word_costs_seconds(database_url: str) -> None:
    """Half-open connections to the pool and to the listener: appends are told in time, and all go on with new ones."""
    async with (
        asyncio.timeout(PATIENCE),
        distant(database_url) as (proxy, url),
        gateway(url, append_timeout=1, statement_timeout=1.5, heartbeat=1) as running,
        traffic([running.url], pause=0.005) as scene,
        httpx.AsyncClient() as http,
    ):
        began = time.monotonic()
        assert proxy.lose() >= 2
        await scene.goes_on()
        assert time.monotonic() - began < 40
        while (await http.get(running.url + "/ready")).json()["news"] != "listen":  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_a_database_across_an_ocean_with_loss_on_the_way(database_url: str) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        distant(database_url) as (proxy, url),
        gateway(url) as near,
        gateway(database_url) as far,
    ):
        proxy.latency, proxy.loss = 0.3, 0.05
        async with traffic([near.url, far.url], [near.url]) as scene:
            await scene.goes_on(3)
        proxy.latency = 0


async def test_a_failover_to_a_slow_address_is_waited_for(database_url: str) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        distant(database_url) as (proxy, url),
        gateway(url, append_timeout=1, statement_timeout=1) as running,
        traffic([running.url]) as scene,
        httpx.AsyncClient(base_url=running.url, timeout=20) as http,
    ):
        with proxy.silence():
            proxy.cut()
            acknowledged = scene.writer.acknowledged
            answer = await http.post(PATH, headers={"content-type": "application/json"}, content=b'{"n":0}')
            assert answer.status_code == 503
            assert 1 <= int(answer.headers["retry-after"]) <= 3
            assert (await http.get("/health")).status_code == 200
            assert (await http.get("/ready")).status_code == 503
            assert scene.writer.acknowledged <= acknowledged + 1
            proxy.cut()
        await scene.goes_on()


async def test_an_event_source_survives_an_outage_of_the_database(database_url: str) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        distant(database_url) as (proxy, url),
        gateway(url, statement_timeout=1) as running,
        httpx.AsyncClient(base_url=running.url, timeout=20) as http,
    ):
        with proxy.refusing():
            proxy.cut()
            live = {"offset": "-1", "live": "sse"}
            assert (await http.get(PATH, params=live)).status_code == 503
            back = {"last-event-id": "0000000000000000_0000000000000001"}
            again = await http.get(PATH, params=live, headers=back)
            assert (again.status_code, again.headers["content-type"]) == (200, "text/event-stream")
            assert 1000 <= int(again.text.removeprefix("retry: ")) <= 3000


async def test_one_outage_of_the_database_is_one_line(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever waits for it: followers, the listener, leases, subscriptions. Refusals are told by their own rule."""
    caplog.set_level(logging.INFO, logger="gateway")
    async with (
        asyncio.timeout(PATIENCE),
        distant(database_url) as (proxy, url),
        gateway(url, statement_timeout=1) as running,
        traffic([running.url]) as scene,
        httpx.AsyncClient(base_url=running.url, timeout=20) as http,
    ):
        await http.post("/runs", json={"id": "leased", "lease": 5})
        await scene.goes_on()
        caplog.clear()
        with proxy.refusing():
            proxy.cut()
            for _ in range(60):
                assert (await http.get("/runs")).status_code == 503
                await asyncio.sleep(0.1)
        await scene.goes_on()
        said = [record for record in caplog.records if record.name not in ("gateway.http", "httpx")]
        assert [record.levelname for record in said if record.name.startswith("gateway")] == ["WARNING", "INFO"]
        assert said[0].getMessage().startswith("The database cannot be reached")
        assert said[1].getMessage() == "The database can be reached again."
