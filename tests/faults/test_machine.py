"""What happens to one Machine: stopped, blocked, out of descriptors, on a full disk, with a wrong clock."""

from __future__ import annotations

import asyncio
import signal
import time
from email.utils import parsedate_to_datetime

import httpx

from tests.faults.host import cpu_seconds, descriptors, faked_clock, few_descriptors, full, small_disk
from tests.faults.scene import PATH, gateway, traffic
from tests.machines import Machine

PATIENCE = 240
JSON = {"content-type": "application/json"}


async def test_readers_of_a_frozen_machine_get_what_they_missed(database_url: str) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        Machine.start(database_url) as stopped,
        Machine.start(database_url) as other,
        traffic([other.url], [stopped.url], pause=0.05) as scene,
    ):
        stopped.send_signal(signal.SIGSTOP)
        try:
            acknowledged = scene.writer.acknowledged
            await asyncio.sleep(10)
            while scene.writer.acknowledged <= acknowledged + 20:  # noqa: ASYNC110  the others go on
                await asyncio.sleep(0.1)
        finally:
            stopped.send_signal(signal.SIGCONT)
        await scene.goes_on()


async def test_a_blocked_event_loop_delays_and_loses_nothing(database_url: str) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        gateway(database_url, heartbeat=0.5) as blocked,
        gateway(database_url) as other,
        traffic([other.url], [blocked.url]) as scene,
    ):
        loop = blocked.server.servers[0].get_loop()
        for _ in range(2):
            loop.call_soon_threadsafe(time.sleep, 2)
            await scene.goes_on()


async def test_out_of_descriptors_open_reads_go_on_and_it_recovers(database_url: str) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        Machine.start(database_url) as machine,
        httpx.AsyncClient(base_url=machine.url) as http,
        traffic([machine.url], pause=0.01) as scene,
    ):
        assert (await http.get("/health")).status_code == 200  # and keeps its connection
        crowd: list[asyncio.StreamWriter] = []
        with few_descriptors(machine.pid, spare=20):
            before = descriptors(machine.pid)
            for _ in range(60):
                _, writer = await asyncio.open_connection("127.0.0.1", machine.port)
                crowd.append(writer)
            await scene.goes_on()
            while descriptors(machine.pid) < before + 15:  # noqa: ASYNC110  until there really are none left
                await asyncio.sleep(0.1)
            assert (await http.get("/health")).status_code == 200
            used, begun = cpu_seconds(machine.pid), time.monotonic()
            await asyncio.sleep(1)
            busy = (cpu_seconds(machine.pid) - used) / (time.monotonic() - begun)
            for writer in crowd:
                writer.close()
            await scene.goes_on()
            async with httpx.AsyncClient() as newcomer:
                while True:  # until somebody is let in again
                    try:
                        assert (await newcomer.get(machine.url + "/health")).status_code == 200
                    except httpx.TransportError:
                        await asyncio.sleep(0.05)
                    else:
                        break
        assert busy < 0.8, "it does not run in circles"


async def test_a_full_disk_refuses_appends_and_serves_reads() -> None:
    with small_disk(220) as disk:
        async with (
            asyncio.timeout(PATIENCE),
            Machine.start(None, env={"GATEWAY_DATA_DIR": str(disk / "data")}) as machine,
            httpx.AsyncClient(base_url=machine.url, timeout=20) as http,
        ):
            await http.put(PATH, headers=JSON)
            kept: list[str] = []

            async def append() -> httpx.Response:
                text = f"{len(kept)}" + "x" * 400_000
                answer = await http.post(PATH, headers=JSON, json=text)
                if answer.status_code == 204:
                    kept.append(text)
                return answer

            async def whole() -> list[str]:
                found: list[str] = []
                offset = "-1"
                while True:
                    page = await http.get(PATH, params={"offset": offset})
                    if page.status_code == 503:  # it may take a moment to come back
                        await asyncio.sleep(0.1)
                        continue
                    found += page.json()
                    offset = page.headers["stream-next-offset"]
                    if "stream-up-to-date" in page.headers:
                        return found

            assert (await append()).status_code == 204
            with full(disk):
                refused = [await append() for _ in range(60)]
                assert {answer.status_code for answer in refused} <= {204, 503}
                assert refused[-1].status_code == 503
                assert await whole() == kept
            while (await append()).status_code != 204:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            found = await whole()
            assert [text for text in found if text in set(kept)] == kept, "what was acknowledged is there, in order"


async def test_a_wrong_clock_breaks_nothing_but_its_own_timestamps(database_url: str) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        Machine.start(database_url, env=faked_clock("+10m")) as ahead,
        Machine.start(database_url, env=faked_clock("-10m")) as behind,
        httpx.AsyncClient() as http,
        traffic([ahead.url, behind.url], [ahead.url, behind.url]) as scene,
    ):
        for machine, offset in ((ahead, 600), (behind, -600)):
            brief = f"/runs/brief{offset}"
            answer = await http.put(machine.url + brief, headers=JSON | {"stream-ttl": "300"}, content=b"[1]")
            assert answer.status_code == 201
            off = parsedate_to_datetime(answer.headers["date"]).timestamp() - time.time()
            assert abs(off - offset) < 30, "its clock really is wrong"
            for reader in (ahead, behind):  # a TTL is the database's matter
                answer = await http.get(reader.url + brief)
                assert (answer.status_code, answer.json()) == (200, [1])
        await scene.goes_on()
        cursor = "0"  # it only grows, whoever gave out the last one
        for machine in (ahead, behind, ahead, behind):
            params = {"offset": "-1", "live": "long-poll", "cursor": cursor}
            page = await http.get(machine.url + PATH, params=params)
            assert int(page.headers["stream-cursor"]) > int(cursor)
            cursor = page.headers["stream-cursor"]
