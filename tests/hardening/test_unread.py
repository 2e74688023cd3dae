"""Answers that nobody reads: while they are much, whoever takes nothing of theirs is not waited for as long as else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import httpx
import pytest

from gateway.http.folding import EACH
from gateway.http.reading import Reading
from gateway.log.reader import LIVE_PAGE
from gateway.protocol import fold
from gateway.wire import outflow, transport
from tests.servers import PATIENCE, Running, serving, until

JSON = {"content-type": "application/json"}
MB = 1_000_000
DEAF = 8  # of lists that are asked for at once a tenant has no more
MANY = 40
METADATA = {f"{n:0256}": "v" * 1024 for n in range(32)}
ONCE = {
    "a record": "/runs/large?meta",
    "a list": "/runs?limit=500",
    "a list that lives": "/runs?live=sse&limit=500",
    "a fold": "/runs/many?offset=-1&fold=nothing:text",
    "catch-up": "/runs/event?offset=-1",
    "a large event by SSE": "/runs/event?offset={offset}&live=sse",
    "without names": "/runs/event?offset={offset}&live=sse&named=false",
    "a text": "/v1/stream/text?offset={offset}&live=sse",
    "bytes": "/v1/stream/bytes?offset={offset}&live=sse",
    "of many streams": "/v1/stream?live=sse&stream=runs/event&stream=runs/not-there-{n}",
    "of all runs of a list": "/v1/stream?live=sse&workflowName=large",
}
"""What many may ask for, each from another place, or with others beside it."""


@pytest.fixture(scope="module")
def gateway(database_of_all: str) -> Iterator[Running]:
    with serving(database_of_all, "direct") as running:
        with httpx.Client(base_url=running.url, timeout=PATIENCE, headers=JSON) as http:
            http.post("/runs", json={"id": "large", "input": "x" * MB}).raise_for_status()
            for _ in range(30):
                http.post("/runs", json={"metadata": METADATA}).raise_for_status()
            for run in ("event", "many"):
                http.put(f"/runs/{run}").raise_for_status()
            http.post("/runs", json={"id": "listed", "workflowName": "large"}).raise_for_status()
            for run in ("event", "listed"):
                http.post(f"/runs/{run}", content=b"[%b]" % b",".join([b"0"] * DEAF)).raise_for_status()
                http.post(f"/runs/{run}", content=b'"%b"' % (b"x" * MB)).raise_for_status()
            for type in ("text/plain", "application/octet-stream"):
                stream, own = f"/v1/stream/{'text' if type[0] == 't' else 'bytes'}", {"content-type": type}
                http.put(stream, headers=own).raise_for_status()
                for _ in range(DEAF):
                    http.post(stream, headers=own, content=b"0").raise_for_status()
                http.post(stream, headers=own, content=b"%b\n" % (b"x" * 99) * (MB // 100)).raise_for_status()
            for n in range(DEAF):
                http.post("/runs", json={"id": f"own-{n}", "input": f"{n}" * MB}).raise_for_status()
            events = b",".join([b'{"type":"t","text":"%08d%b"}' % (n, b"y" * 172) for n in range(10_000)])
            http.post("/runs/many", content=b"[%b]" % events).raise_for_status()
        yield running


def asking(port: int, target: str) -> socket.socket:
    """A client that asks, and takes no more than its socket does by itself."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    sock.sendall(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    return sock


@contextmanager
def deaf(gateway: Running, target: str, count: int = DEAF) -> Iterator[None]:
    """Clients that read nothing: each names another place, and itself."""
    with ExitStack() as stack:
        for n in range(count):
            asked = target.format(n=n, offset=f"{0:016}_{n:016}")
            stack.enter_context(asking(gateway.port, asked))
        yield


def of_ours(gateway: Running) -> list[transport.DirectProtocol]:
    """Its connections."""
    return [cast("transport.DirectProtocol", each) for each in gateway.server.server_state.connections]


def waiting_in(gateway: Running) -> list[int]:
    """The sizes of what waits there for clients."""
    found: dict[int, int] = {}
    for connection in of_ours(gateway):
        connection.weigh(found)
    return list(found.values())


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system keeps little for each connection; by itself it may take megabytes off the gateway's hands."""
    made = transport.DirectProtocol.connection_made

    def connection_made(self: transport.DirectProtocol, each: asyncio.Transport) -> None:
        each.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 << 10)
        made(self, each)

    monkeypatch.setattr(transport.DirectProtocol, "connection_made", connection_made)


@pytest.mark.parametrize("what", ONCE)
async def test_what_many_do_not_read_is_kept_once(gateway: Running, what: str) -> None:
    """Each holds a reference to it, and a little of its own."""
    connections = gateway.server.server_state.connections
    await until(lambda: not connections)
    with deaf(gateway, ONCE[what]):
        await until(lambda: len(connections) == DEAF and not any(each.writable() for each in of_ours(gateway)))
        await until(lambda: len([size for size in waiting_in(gateway) if size > MB / 2]) == 1)  # each had its turn
        assert sum(waiting_in(gateway)) < 2.5 * MB
    await until(lambda: not connections)
    assert not gateway.app.outflow._kept


@pytest.mark.parametrize("query", ["?offset={offset}", "?offset=-1&tail=9{n:03}"])
async def test_while_much_waits_what_each_has_of_its_own_is_little(
    gateway: Running, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    """Pages of catch-up that begin at different places have hardly a byte in common that a connection could share."""
    connections = gateway.server.server_state.connections
    await until(lambda: not connections and not gateway.app.outflow.held)
    monkeypatch.setattr(outflow, "ROOM", MB)
    with deaf(gateway, f"/runs/many{query}", MANY):
        await until(lambda: len(connections) == MANY and not any(each.writable() for each in of_ours(gateway)))
        pages = [size for size in waiting_in(gateway) if size > 2 * LIVE_PAGE]
        assert 0 < len(pages) < MANY / 2, "those that were being read by then"
        assert sum(waiting_in(gateway)) < (len(pages) + 1) * 2 * MB + MANY * 2 * LIVE_PAGE
    await until(lambda: not connections and not gateway.app.outflow.held)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE) as http:
        whole = await http.get("/runs/many?offset=-1", headers={"accept-encoding": "identity"})
    assert len(whole.content) > MB, "and then it is as it was"


async def test_who_reads_nothing_is_let_go_of_when_it_is_much(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whoever reads, however slowly, is given all of it."""
    connections = gateway.server.server_state.connections
    await until(lambda: not connections)
    monkeypatch.setattr(outflow, "ROOM", 2 * MB)
    monkeypatch.setattr(transport, "HURRY", 0.5)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1 << 16)
    writer.write(b"GET /runs/large?meta HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    size = 0
    with deaf(gateway, "/runs/own-{n}?meta"):
        await until(lambda: len(connections) == DEAF + 1)
        async with asyncio.timeout(PATIENCE):
            while len(connections) > 3:  # two of them are not too much
                size += len(await reader.read(1 << 15))
                await asyncio.sleep(0.05)
        while part := await reader.read(1 << 16):
            size += len(part)
    writer.close()
    assert size > MB


async def test_one_event_for_all_who_do_not_read_it_is_not_much(gateway: Running) -> None:
    """It is held once, so nobody is let go of for it."""
    connections = gateway.server.server_state.connections
    await until(lambda: not connections and not gateway.app.outflow.held)
    url = gateway.url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, headers=JSON) as http:
        with deaf(gateway, "/runs/event?offset=now&live=sse"):
            await until(lambda: gateway.app._hub.followers["following"] == DEAF)
            (await http.post("/runs/event", content=b'"%b"' % (b"z" * MB))).raise_for_status()
            await until(lambda: gateway.app._hub.followers["catching_up"] == DEAF)
            await until(lambda: gateway.app.outflow.held > 0)
            assert gateway.app.outflow.held < 3 * MB


async def test_of_folds_that_are_asked_for_at_once_few_are_made(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its own, and those who wait hold no page."""
    inside = most = 0
    plain = Reading._plain

    async def counted(self: Reading, *arguments: Any) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        try:
            await plain(self, *arguments)
        finally:
            inside -= 1

    monkeypatch.setattr(Reading, "_plain", counted)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE) as http:
        folds = [http.get(f"/runs/many?offset=-1&fold=type,n{n}:text") for n in range(DEAF)]
        answers = await asyncio.gather(*folds)
    assert most <= EACH
    assert all(len(answer.json()) == 1 for answer in answers)


async def test_a_fold_that_many_ask_for_is_made_once(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """By those whose turns come first; all who come after them are given theirs."""
    made: list[object] = []
    folding = fold._Folding

    def counted(*arguments: Any) -> fold._Folding:
        made.append(arguments)
        return folding(*arguments)

    monkeypatch.setattr(fold, "_Folding", counted)
    plain = {"accept-encoding": "identity"}
    async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE, headers=plain) as http:
        answers = await asyncio.gather(*[http.get("/runs/many?offset=-1&fold=type,once:text") for _ in range(4 * EACH)])
    assert len(made) <= EACH
    assert len({answer.content for answer in answers}) == 1
