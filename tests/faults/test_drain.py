"""SIGTERM and SIGINT: everything that is open ends cleanly and in time, and what is under way is finished."""

from __future__ import annotations

import asyncio
import re
import signal
import time

import httpx
import pytest

from tests.cli.commands import refuses, running
from tests.faults.crowd import Stream, follow
from tests.faults.network import distant
from tests.log.rig import connected
from tests.machines import Machine
from tests.tools.proxy import Proxy
from tests.traffic import Writer

PATH = "/runs/run-1"
PATIENCE = 240
DRAIN = 5


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 1), (signal.SIGINT, 2)])
async def test_a_thousand_open_streams_end_cleanly(database_url: str, number: signal.Signals, workers: int) -> None:
    env = {"GATEWAY_DRAIN_TIMEOUT": str(DRAIN), "GATEWAY_WORKERS": str(workers)}
    async with asyncio.timeout(PATIENCE), Machine.start(database_url, env=env) as machine:
        writer = Writer(PATH, [machine.url])
        await writer.create()
        await writer.write(3, close=False)
        crowd = await follow(machine.url + PATH, 1000)
        polls = [await Stream.open(f"{machine.url}{PATH}?offset=now&live=long-poll") for _ in range(20)]
        begun = time.monotonic()
        ending = [asyncio.create_task(stream.to_the_end()) for stream in (*crowd, *polls)]
        machine.send_signal(number)
        assert await machine.wait() == 0
        assert time.monotonic() - begun < DRAIN + 30
        await asyncio.gather(*ending)
        assert all(stream.clean for stream in crowd)
        for poll in polls:
            assert (poll.end, poll.status) == ("fin", 204)
            assert b"stream-next-offset: 0000000000000000_0000000000000003" in poll.given, "its own position"
        assert "ERROR" not in machine.log
        assert "Traceback" not in machine.log


async def under_way(http: httpx.AsyncClient, machine: Machine, append: asyncio.Task[httpx.Response]) -> None:
    """Returns once the Machine has the append, whose outcome is open; or, were we slow, is told."""
    while not append.done():
        told = (await http.get(machine.url + "/metrics")).text
        if not re.search(r"(?m)^run_gateway_append_pending_bytes 0", told):
            return
        await asyncio.sleep(0.01)


async def test_a_drain_answers_appends_and_serves_latecomers_briefly(database_url: str) -> None:
    for attempt in range(3):  # an idle connection is kept for half a second, which a busy machine may let pass
        if await drained_with_an_append_and_a_late_reader(database_url, f"{PATH}-{attempt}"):
            return
    pytest.fail("nobody who came late was served")


async def drained_with_an_append_and_a_late_reader(database_url: str, path: str) -> bool:
    """Whether the late reader was served."""
    async with (
        asyncio.timeout(PATIENCE),
        connected(database_url) as holder,
        httpx.AsyncClient() as http,
        Machine.start(database_url, env={"GATEWAY_DRAIN_TIMEOUT": "6"}) as machine,
    ):
        writer = Writer(path, [machine.url])
        await writer.create()
        idle = await Stream.open(f"{machine.url}{path}", method="HEAD")  # keeps its connection for the next request
        await idle.until(b"\r\n\r\n")
        reader = await Stream.open(f"{machine.url}{path}?offset=-1&live=sse")
        await reader.until(b'"upToDate":true')
        arrived = time.monotonic()
        async with holder.transaction():
            await holder.execute("SELECT FROM run_gateway.streams FOR UPDATE")
            append = asyncio.create_task(
                http.post(machine.url + path, headers={"content-type": "application/json"}, content=b'{"n":1}')
            )
            await under_way(http, machine, append)
            machine.send_signal(signal.SIGTERM)
            await refuses(machine.port)
            assert not append.done()
            late = time.monotonic()
            idle.given = b""
            idle.writer.write(f"GET {path}?offset=-1&live=sse HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        assert (await append).status_code == 204
        await reader.to_the_end()
        assert reader.clean, reader
        assert b'{"n":1}' in reader.given
        lasted = [time.monotonic() - arrived]
        await idle.to_the_end()
        if idle.given:
            assert idle.clean, idle
            lasted.append(time.monotonic() - late)
        assert min(lasted) > 1, "three connections shorter than a second end a client"
        assert await machine.wait() == 0
        return bool(idle.given)


async def test_a_machine_with_a_silent_database_ends_in_time(database_url: str) -> None:
    env = {"GATEWAY_DRAIN_TIMEOUT": "2", "GATEWAY_APPEND_TIMEOUT": "4", "GATEWAY_STATEMENT_TIMEOUT": "2"}
    async with (
        asyncio.timeout(PATIENCE),
        distant(database_url) as (proxy, url),
        Machine.start(url, env=env) as machine,
        httpx.AsyncClient(timeout=30) as http,
    ):
        writer = Writer(PATH, [machine.url])
        await writer.create()
        (reader,) = await follow(machine.url + PATH, 1)
        with proxy.silence():
            append = asyncio.create_task(
                http.post(machine.url + PATH, headers={"content-type": "application/json"}, content=b'{"n":1}')
            )
            await under_way(http, machine, append)
            begun = time.monotonic()
            machine.send_signal(signal.SIGTERM)
            assert (await append).status_code == 503
            await reader.to_the_end()
            assert reader.clean
            assert await machine.wait() == 0
            assert time.monotonic() - begun < 30
        assert "Traceback" not in machine.log


async def test_tail_goes_on_by_itself_across_the_drain_of_its_machine(database_url: str) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        Machine.start(database_url) as a,
        Machine.start(database_url) as b,
        Proxy(a.url) as proxy,
    ):
        writer = Writer(PATH, [b.url])
        await writer.create()
        await writer.write(5, close=False)
        async with running("tail", "run-1", "--url", proxy.url) as tail:
            assert tail.stdout is not None
            given = [await tail.stdout.readline() for _ in range(5)]
            proxy.target = b.url
            assert await a.terminate() == 0
            await writer.write(5)
            rest, _ = await tail.communicate()
            assert tail.returncode == 0
        assert b"".join(given) + rest == b"".join(b'{"n":%d}\n' % n for n in range(1, 11))
