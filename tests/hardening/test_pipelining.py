"""What is sent behind a request that is not answered yet: it is kept within bounds, and hides nobody's leaving."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.wire.intake import BEHIND
from gateway.wire.transport import DirectProtocol
from tests.machines import Machine
from tests.servers import PATIENCE, Running, body_of, serving, until

READ = 256 << 10  # what the server reads at once, at most
PUT = b"PUT /runs/%b HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
WAITS = {
    "long-poll": b"GET /runs/w?offset=now&live=long-poll HTTP/1.1\r\nHost: h\r\n\r\n",
    "event stream": b"GET /runs/w?offset=now&live=sse HTTP/1.1\r\nHost: h\r\n\r\n",
    "event stream with a body": b"GET /runs/w?offset=now&live=sse HTTP/1.1\r\nHost: h\r\nContent-Length: 99999\r\n\r\n",
    "folded event stream": b"GET /runs/w?offset=now&live=sse&fold=type:text HTTP/1.1\r\nHost: h\r\n\r\n",
    "many streams": b"GET /v1/stream?live=sse&stream=runs/w HTTP/1.1\r\nHost: h\r\n\r\n",
    "many streams that are named in a body": (
        b"POST /v1/stream?live=sse HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        b'Content-Length: 22\r\n\r\n{"streams":["runs/w"]}'
    ),
    "live list": b"GET /runs?live=sse HTTP/1.1\r\nHost: h\r\n\r\n",
    "wait for an end": b"GET /runs/w?meta&wait=300 HTTP/1.1\r\nHost: h\r\n\r\n",
}
POST = (
    b"POST /runs/w HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1\r\n\r\n1"
)
NEXT = b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n"
LONG = b"GET /runs/w?x=%b HTTP/1.1\r\nHost: h\r\n\r\n" % (b"x" * 2_900)

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def gateway(database_of_all: str) -> AsyncIterator[Running]:
    waiting: dict[str, Any] = {"long_poll_timeout": 300, "list_timeout": PATIENCE}
    with serving(database_of_all, "direct", request_timeout=2, keep_alive=2, **waiting) as running:
        assert (await running.raw(PUT % b"w"))[9:12] == b"201"
        yield running


def connections(gateway: Running) -> set[Any]:
    return gateway.server.server_state.connections


async def opened(port: int, sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    return reader, writer


@pytest.mark.parametrize("behind", [b"", NEXT, LONG * 10, LONG * 200], ids=["nothing", "one", "ten", "200"])
@pytest.mark.parametrize("wait", WAITS)
async def test_who_leaves_is_missed_whatever_is_behind_it(gateway: Running, wait: str, behind: bytes) -> None:
    await until(lambda: not connections(gateway))
    count = 8 if wait == "live list" else 20  # of lists that are asked for at once a tenant has a few
    clients = [await opened(gateway.port, WAITS[wait] + behind) for _ in range(count)]
    await until(lambda: len(gateway.server.server_state.tasks) >= count)
    assert len(connections(gateway)) == count
    for _, writer in clients:
        writer.transport.abort() if len(behind) < READ else writer.close()
    await until(lambda: not connections(gateway) and not gateway.server.server_state.tasks)
    assert gateway.app.bodies.held == 0
    assert all(not hub.tails for hub in gateway.app._hubs)


async def test_what_is_behind_a_wait_is_kept_within_bounds(gateway: Running) -> None:
    await until(lambda: not connections(gateway))
    _, writer = await opened(gateway.port, WAITS["long-poll"])
    await until(lambda: len(connections(gateway)) == 1 and len(gateway.server.server_state.tasks) == 1)
    (connection,) = connections(gateway)
    writer.write(LONG * 10_000)
    await until(lambda: connection.flow.read_paused)
    assert len(connection._behind) <= BEHIND + READ
    assert len(gateway.server.server_state.tasks) == 1, "nothing is made of what waits"
    # Nobody can tell whether this client is there still, and so it is not waited for without end.
    await until(lambda: not connections(gateway))
    writer.transport.abort()
    assert gateway.app.bodies.held == 0


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def patient(database_of_all: str) -> AsyncIterator[Running]:
    """One that waits for a request for longer than any test does."""
    with serving(database_of_all, "direct", long_poll_timeout=300, request_timeout=600, heartbeat=300) as running:
        await running.raw(PUT % b"w")
        yield running


@pytest.mark.parametrize("wait", WAITS)
async def test_who_leaves_is_missed_even_if_no_end_arrives(patient: Running, wait: str) -> None:
    """The end is behind megabytes that the client's own system still holds, and goes on holding."""
    await until(lambda: not connections(patient))
    _, writer = await opened(patient.port, WAITS[wait] + LONG * 10_000)
    await until(lambda: any(each.flow.stopped for each in connections(patient)))
    writer.transport.abort()
    await until(lambda: not connections(patient) and not patient.server.server_state.tasks)
    assert patient.app.bodies.held == 0


async def test_who_stays_is_asked_and_gets_the_answer(patient: Running) -> None:
    await until(lambda: not connections(patient))
    reader, writer = await opened(patient.port, WAITS["long-poll"] + LONG * 10_000)
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert await reader.readuntil(b"\r\n\r\n") == interim
    await patient.raw(POST)
    while (head := await reader.readuntil(b"\r\n\r\n")) == interim:
        pass
    assert head.startswith(b"HTTP/1.1 200 ")
    writer.transport.abort()
    await until(lambda: not connections(patient))


async def test_a_client_of_http_1_0_gets_no_interim_answer(patient: Running) -> None:
    await until(lambda: not connections(patient))
    old = WAITS["long-poll"].replace(b"HTTP/1.1", b"HTTP/1.0")
    reader, writer = await opened(patient.port, old + LONG * 10_000)
    await until(lambda: any(each._since for each in connections(patient)))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await reader.read(1)
    writer.transport.abort()
    await patient.raw(POST)  # nobody has told that this one left
    await until(lambda: not connections(patient))


async def test_everything_behind_is_answered_in_its_order(gateway: Running) -> None:
    head = b"POST /runs/order HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
    sent = b"".join([head + b"Content-Length: %d\r\n\r\n%d" % (len(str(n)), n) for n in range(300)])
    await gateway.raw(PUT % b"order")
    bad = b"GET /runs/order HTTP/1.1\r\nno header\r\n\r\n"
    answers = await gateway.raw(sent + WAITS["long-poll"].replace(b"now", b"-1").replace(b"/w", b"/order") + bad)
    statuses = [answer[:3] for answer in answers.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"204"] * 300 + [b"200", b"400"], "rubbish, too, is answered in its turn"
    kept = await gateway.raw(b"GET /runs/order HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert json.loads(body_of(kept)) == list(range(300))


@pytest.mark.parametrize("kind", ["answered", "waiting", "half a body", "half a head", "behind", "refused"])
async def test_a_lost_connection_is_freed_without_a_look_for_rings(gateway: Running, kind: str) -> None:
    post = b"POST /runs/w HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    sent = {
        "answered": NEXT,
        "waiting": WAITS["long-poll"],
        "half a body": post + b"12",
        "half a head": post[:40],
        "behind": WAITS["event stream"] + NEXT * 50,
        "refused": b"rubbish\r\n\r\n",
    }[kind]
    await until(lambda: not connections(gateway))
    gc.collect()
    gc.disable()
    try:
        reader, writer = await opened(gateway.port, sent)
        await until(lambda: len(connections(gateway)) == 1)
        if kind in ("answered", "refused"):
            assert await reader.read(10)
        else:
            await gateway.get_raw("/health")
        references = [weakref.ref(each) for each in list(connections(gateway))]
        assert any(isinstance(each(), DirectProtocol) for each in references)
        writer.transport.abort()
        del reader, writer
        await until(lambda: all(each() is None for each in references))
    finally:
        gc.enable()


async def test_rounds_of_pipelining_do_not_add_up_in_memory(database_of_all: str) -> None:
    """2,000 requests of 2.9 kB on each of eight connections, eight times over."""
    async with Machine.start(database_of_all, env={"GATEWAY_REQUEST_TIMEOUT": "1"}) as machine:

        def resident() -> int:
            pages = Path(f"/proc/{machine.pid}/statm").read_text().split()[1]
            return int(pages) * 4096

        def descriptors() -> int:
            return len(list(Path(f"/proc/{machine.pid}/fd").iterdir()))

        async def round() -> int:
            clients = [await opened(machine.port, WAITS["long-poll"]) for _ in range(8)]
            for _, writer in clients:
                writer.write(LONG * 2_000)
            most = 0
            for _ in range(20):
                async with asyncio.timeout(PATIENCE):
                    reader, writer = await opened(machine.port, NEXT)
                    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
                    writer.close()
                most = max(most, resident())
            for _, writer in clients:
                writer.transport.abort()
            await until(lambda: descriptors() <= idle)
            return most

        reader, writer = await opened(machine.port, PUT % b"w")
        await reader.read()
        writer.close()
        idle = descriptors() + 2
        await round()
        before = resident()
        rounds = [await round() for _ in range(8)]
        assert max(rounds) - before < 16 << 20, "at most what is kept of each, and not the 46 MB that were sent"
        assert max(rounds[4:]) - max(rounds[:4]) < 4 << 20, "and no more with each round"
