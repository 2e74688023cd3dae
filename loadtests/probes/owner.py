"""What an owner costs: a request of a conversation at its owner, and at another Machine, beside one that has no owner.

    python -m loadtests.probes.owner [--rounds 3000]

One application for each of three gateways, which answers at once. Requests go in turn, each on a connection that is
kept: to the application itself, through a gateway that knows of no owners, at the owner, and at another Machine. What
is printed are medians of one run; the last column is what is more than through the gateway that knows of no owners.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import click

from gateway.embedded import EmbeddedPostgres
from gateway.process.machine import Machine

WARM = 300
BODY = b'{"text":"hello"}'


class App(asyncio.Protocol):
    """Answers each request, which comes in one piece, with 200."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._head = b""

    def data_received(self, data: bytes) -> None:
        self._head += data
        head, end, body = self._head.partition(b"\r\n\r\n")
        if end and (head.startswith(b"GET") or len(body) >= len(BODY)):
            self._head = b""
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok")


class Way:
    """A kept connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.seconds: list[float] = []

    def ask(self, method: str, path: str) -> None:
        body = BODY if method == "POST" else b""
        length = b"content-length: %d\r\n" % len(body) if body else b""
        began = time.perf_counter()
        self._socket.sendall(b"%b %b HTTP/1.1\r\nhost: x\r\n%b\r\n%b" % (method.encode(), path.encode(), length, body))
        answer = b""
        while not answer.endswith(b"\r\n\r\nok"):
            piece = self._socket.recv(65_536)
            if not piece or b" 200 " not in (answer + piece)[:16]:
                raise click.ClickException(f"answered {answer + piece!r}")
            answer += piece
        self.seconds.append(time.perf_counter() - began)


async def app(stack: AsyncExitStack) -> str:
    """An application as a process. Returns its origin."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtests.probes.owner", "--serve", stdout=asyncio.subprocess.PIPE
    )
    stack.callback(process.kill)
    assert process.stdout is not None
    return f"http://127.0.0.1:{int(await process.stdout.readline())}"


async def gateway(stack: AsyncExitStack, database: str, **env: str) -> Machine:
    origin = await app(stack)
    machine = Machine({"DATABASE_URL": database, "GATEWAY_UPSTREAM": origin, "GATEWAY_DRAIN_TIMEOUT": "0", **env})
    await machine.launch()
    stack.push_async_callback(machine.kill)
    return machine


async def measure(rounds: int) -> None:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        postgres = await stack.enter_async_context(EmbeddedPostgres(Path(folder) / "data"))
        owned = {"GATEWAY_OWNED": "/chat/{id}"}
        plain = await gateway(stack, postgres.dsn)
        owner = await gateway(stack, postgres.dsn, **owned)
        other = await gateway(stack, postgres.dsn, **owned)
        direct = await app(stack)
        Way(owner.url).ask("POST", "/chat/1")  # takes it
        for method in ("POST", "GET"):
            ways = {
                "the application alone": Way(direct),
                "a gateway without owners": Way(plain.url),
                "at the owner": Way(owner.url),
                "at another Machine": Way(other.url),
            }
            await asyncio.to_thread(drive, method, list(ways.values()), rounds)
            base = statistics.median(ways["a gateway without owners"].seconds[WARM:])
            for name, way in ways.items():
                half = statistics.median(way.seconds[WARM:])
                click.echo(f"{method:5} {name:26} {half * 1e3:7.3f} ms {(half - base) * 1e3:+8.3f} ms")


def drive(method: str, ways: list[Way], rounds: int) -> None:
    for _ in range(rounds + WARM):
        for way in ways:
            way.ask(method, "/chat/1")


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(App, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@click.command()
@click.option("--rounds", default=3000, show_default=True)
@click.option("--serve", "serves", is_flag=True, hidden=True)
def main(rounds: int, serves: bool) -> None:
    asyncio.run(serve() if serves else measure(rounds))


if __name__ == "__main__":
    main()
