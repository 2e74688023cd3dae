"""`serve --workers`: several Machines on one port, which begin, drain and end as one, and replace each other."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import httpx
import pytest

from gateway.process.exit_codes import Failure
from gateway.process.signals import Stop
from gateway.process.sockets import Sockets, bind
from gateway.process.supervisor import supervise
from gateway.settings import load
from tests.cli.commands import end, refuses, running
from tests.machines import Machine
from tests.process.workers import alive, children, connections_to_each, gateway, stopped, until, worker_of, workers
from tests.traffic import MODES, Reader, Writer, under_way

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

PATH = "/runs/run-1"
PATIENCE = 240
JSON = {"content-type": "application/json"}


async def test_it_says_once_that_it_listens_when_every_worker_does(database_url: str) -> None:
    async with gateway(database_url, 3) as machine:
        assert machine.log.count("Listening on") == 1
        assert children(machine.pid) == set(workers(machine))
        assert len(workers(machine)) == 3
        async with connections_to_each(machine) as clients:
            for client in clients.values():
                assert (await client.get("/ready")).status_code == 200


async def test_one_worker_is_no_other_process_than_the_command_itself(database_url: str) -> None:
    async with gateway(database_url, 1) as machine:
        assert children(machine.pid) == set()


async def test_what_one_worker_appends_the_others_deliver(database_url: str) -> None:
    async with gateway(database_url) as machine, connections_to_each(machine) as clients:
        writer, reader = clients.values()
        await writer.put(PATH, headers=JSON)
        async with reader.stream("GET", PATH, params={"offset": "-1", "live": "sse"}) as sse:
            assert worker_of(machine, sse) == list(clients)[1]
            lines = sse.aiter_lines()
            for n in range(3):
                response = await writer.post(PATH, headers=JSON, content=str(n).encode())
                assert (response.status_code, worker_of(machine, response)) == (204, next(iter(clients)))
                while (line := await anext(lines)) != f"data:[{n}]":
                    assert not line.startswith("data:["), line


async def test_a_killed_worker_is_replaced_and_its_readers_resume(database_url: str) -> None:
    async with gateway(database_url) as machine:
        before = workers(machine)
        writer = Writer(PATH, [machine.url])
        await writer.create()
        readers = [Reader(mode, PATH, [machine.url]) for mode in MODES for _ in range(3)]
        async with under_way(writer, readers, 200, pause=0.003):
            os.kill(before[0], signal.SIGKILL)
        await until(lambda: workers(machine) != before)
        assert re.search(r"worker 1 ended \(exit code -9\); another one starts in 0\.1 s", machine.log)
        assert workers(machine)[1:] == before[1:]
        async with connections_to_each(machine) as clients:
            assert set(clients) == children(machine.pid)
        assert machine.log.count("Listening on") == 1


async def test_unaccepted_connections_of_dead_workers_are_answered(
    database_url: str,
) -> None:
    async with gateway(database_url) as machine:
        before = workers(machine)
        for pid in before:
            os.kill(pid, signal.SIGSTOP)
            await until(lambda pid=pid: stopped(pid))  # type: ignore[misc]
        async with httpx.AsyncClient(base_url=machine.url, timeout=30) as http:
            waiting = [asyncio.create_task(http.get("/health")) for _ in range(20)]
            _, writer = await asyncio.open_connection("127.0.0.1", machine.port)  # the last in the queue
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            assert [(await answer).status_code for answer in waiting] == [200] * 20
            writer.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_all_workers_together_and_ends_with_0(database_url: str, number: signal.Signals) -> None:
    executed = number is signal.SIGINT
    async with (
        gateway(database_url, 2, executed, GATEWAY_DRAIN_TIMEOUT="3") as machine,
        connections_to_each(machine) as clients,
    ):
        pids = workers(machine)
        writer = Writer(PATH, [machine.url])
        await writer.create()
        async with AsyncExitStack() as stack:
            live = [
                await stack.enter_async_context(client.stream("GET", PATH, params={"offset": "-1", "live": "sse"}))
                for client in clients.values()
                for _ in range(5)
            ]
            assert {worker_of(machine, response) for response in live} == set(pids)
            began = asyncio.get_running_loop().time()
            code = asyncio.create_task(machine.terminate(number))
            for response in live:  # a response that is cut off would be a RemoteProtocolError
                assert b"streamClosed" not in b"".join([chunk async for chunk in response.aiter_bytes()])
        assert await code == 0
        assert asyncio.get_running_loop().time() - began < 3 + 30
        assert not any(map(alive, pids))
        assert "Traceback" not in machine.log


async def test_draining_workers_are_not_ready_and_close_the_port(database_url: str) -> None:
    async with gateway(database_url, GATEWAY_DRAIN_TIMEOUT="20") as machine, connections_to_each(machine) as clients:
        reader, unfinished = await asyncio.open_connection("127.0.0.1", machine.port)
        unfinished.write(b"PUT /runs/1 HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\nexpect: 100-continue\r\n\r\n")
        await reader.readline()  # its worker waits for the body now, and the drain for its worker
        asking = [asyncio.create_task(_asked_while_draining(client)) for client in clients.values()]
        machine.send_signal(signal.SIGTERM)
        await refuses(machine.port)
        assert await asyncio.gather(*asking) == [None] * 2
        machine.send_signal(signal.SIGINT)  # the second signal: it waits for nobody
        assert await machine.wait() == 0
        unfinished.close()


@pytest.mark.parametrize("count", [1, 2])
async def test_a_load_balancer_is_told_before_the_port_closes(database_url: str, count: int) -> None:
    async with gateway(database_url, count, GATEWAY_DRAIN_DELAY="3600") as machine:
        machine.send_signal(signal.SIGTERM)
        async with httpx.AsyncClient(base_url=machine.url) as client:
            while (ready := await client.get("/ready", headers={"connection": "close"})).status_code == 200:
                pass
            assert (ready.status_code, ready.json()["draining"]) == (503, True)
            assert (await client.get("/health")).status_code == 200
            assert (
                await client.put(PATH, headers=JSON)
            ).status_code == 201  # all else goes on, over new connections too
            assert (await client.post(PATH, headers=JSON, content=b"1")).status_code == 204
        machine.send_signal(signal.SIGINT)  # the second signal waits for nobody
        assert await machine.wait() == 0


async def test_after_the_delay_the_drain_begins(database_url: str) -> None:
    async with gateway(database_url, 1, GATEWAY_DRAIN_DELAY="0.3") as machine:
        machine.send_signal(signal.SIGTERM)
        assert await machine.wait() == 0
    said = [machine.log.index(words) for words in ("Leaving: /ready answers 503 for 0.3 s", "Draining")]
    assert said == sorted(said)


async def _asked_while_draining(client: httpx.AsyncClient) -> None:
    """Asks one worker, until it says that it drains or takes no more requests; it must not say both in turns."""
    draining = False
    while True:
        try:
            response = await client.get("/ready")
        except httpx.TransportError:
            return
        if response.status_code == 503:
            draining = True
            assert response.json()["draining"] is True
        else:
            assert not draining, "it was draining already"


async def test_no_worker_and_no_postgres_outlives_the_parent(tmp_path: Path) -> None:
    env = {"GATEWAY_WORKERS": "2", "GATEWAY_DATA_DIR": str(tmp_path / "data")}
    async with (
        Machine.start(None, env=env, executed=True) as machine,
        httpx.AsyncClient(base_url=machine.url) as http,
    ):
        await http.put(PATH, headers=JSON, content=b"[1,2]")
        family = children(machine.pid)
        assert len(family) == 3, "two workers and one Postgres"
        await machine.kill()
        await until(lambda: not any(map(alive, family)))
        await machine.restart()
        assert (await http.get(PATH)).json() == [1, 2]
        postgres = children(machine.pid) - set(workers(machine))
        assert await machine.terminate() == 0
        assert not any(map(alive, postgres))


async def test_a_signal_while_workers_start_ends_it_with_0(database_url: str) -> None:
    async with running("serve", PORT="0", DATABASE_URL=database_url, GATEWAY_WORKERS="2") as process:
        assert process.stderr is not None
        while b"worker 2 is process" not in (line := await process.stderr.readline()):
            assert line
        process.terminate()
        ended = await end(process)
    assert (ended.code, ended.out) == (0, "")
    assert "Traceback" not in ended.err


class Supervised:
    """The supervisor in this process, over two workers that are a shell script."""

    def __init__(self, program: Path, sockets: list[socket.socket]) -> None:
        self.stop: Stop | None = None
        self._program = program
        self._sockets = sockets

    async def run(self, lines: str) -> None:
        """Until `stop` hears a signal. Raises Failure."""
        self._program.write_text(f"#!/bin/sh\n{lines}\n")
        self._program.chmod(0o700)
        self.stop = Stop()
        await supervise(load(workers=2, drain_timeout=0), "postgres://nowhere", Sockets(self._sockets, []), self.stop)


@pytest.fixture
def supervised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervised]:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "worker"))
    with ExitStack() as stack:
        yield Supervised(tmp_path / "worker", [stack.enter_context(sock) for sock in bind("127.0.0.1", 0)])


async def test_a_worker_that_does_not_even_start_is_not_tried_again(
    supervised: Supervised, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Failure, match=r"^worker [12] ended \(exit code 3\)$"):
        await supervised.run("exit 3")
    assert "another one starts" not in caplog.text


async def test_a_worker_that_keeps_dying_is_replaced_less_often(
    supervised: Supervised, caplog: pytest.LogCaptureFixture
) -> None:
    running = asyncio.create_task(supervised.run("read -r orders; echo Listening; exit 4"))

    def pauses() -> list[str]:
        return re.findall(r"worker 1 ended \(exit code 4\); another one starts in (\S+) s", caplog.text)

    await until(lambda: len(pauses()) >= 4)
    assert pauses()[:4] == ["0.1", "0.2", "0.4", "0.8"]
    assert supervised.stop is not None
    supervised.stop.signal(signal.SIGTERM)
    await running


async def test_workers_that_do_not_end_in_time_are_killed(
    supervised: Supervised, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gateway.process.supervisor.GRACE", 0.1)
    running = asyncio.create_task(supervised.run("trap '' TERM; read -r orders; echo Listening; exec sleep 600"))
    await until(lambda: "Listening on" in capsys.readouterr().out)
    assert supervised.stop is not None
    supervised.stop.signal(signal.SIGTERM)
    with pytest.raises(Failure, match=r"^2 of 2 workers did not end, and were killed$"):
        await running
