"""The way of one event through the code, as data: which files of gateway/ it meets, and by how many calls.

    python -m loadtests.probes.walk            # a line for each way
    python -m loadtests.probes.walk --calls    # each call, below the one that made it

Two Machines are in this process, over a database of their own. Each way has been gone several times before it is
looked at, as plain requests are that find a Machine at work. A call is counted when a function is entered: not when a
coroutine goes on, and not for a comprehension. What Machines do every few moments is left out.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Final, NamedTuple

import click
import uvloop

import gateway
from gateway.embedded import EmbeddedPostgres
from gateway.log.migrations import migrate
from gateway.process.server import serve
from gateway.process.signals import Stop
from gateway.process.sockets import Sockets, bind
from gateway.settings import load

HOUSE: Final = str(Path(gateway.__file__).parent) + "/"
ROUNDS: Final = 6  # requests that are made of a kind before one is looked at
QUIET: Final = 0.3  # seconds in which what a request has begun comes to rest
_BEGIN: Final = 10  # bytes of code, within which a frame stands that has just begun
COMPREHENSIONS: Final = ("<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>")
LEFT_OUT: Final = ("embedded/", "log/connect.py", "log/database.py", "process/", "tasks.py", "wire/server.py")
"""Where what the loop calls is not on the way: what Machines do every few moments, and connections given back."""
LISTENER: Final = "log/listener.py"


class Call(NamedTuple):
    """A function of the gateway that was entered, how deep below the loop, and the file that the loop has called."""

    file: str
    name: str
    depth: int
    root: str


class Walk:
    """The calls while it watches, in order."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._frames: dict[int, FrameType] = {}  # those entered already, kept so that no other has their id

    @contextmanager
    def watching(self) -> Iterator[None]:
        sys.setprofile(self._entered)
        try:
            yield
        finally:
            sys.setprofile(None)
            self._frames.clear()

    def _entered(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(HOUSE) or id(frame) in self._frames:
            return
        self._frames[id(frame)] = frame
        files = [file.removeprefix(HOUSE) for file in _stack(frame) if file.startswith(HOUSE)]
        if code.co_name not in COMPREHENSIONS and frame.f_lasti <= _BEGIN and not files[-1].startswith(LEFT_OUT):
            self.calls.append(Call(files[0], code.co_qualname, len(files), files[-1]))

    def show(self, name: str, *, calls: bool, elsewhere: bool = False) -> None:
        """Prints what was done at the Machine that was asked, or at the other one."""
        shown = [call for call in self.calls if (call.root == LISTENER) == elsewhere]
        files = list(dict.fromkeys(call.file for call in shown))
        changes = sum(one.file != other.file for one, other in pairwise(shown))
        click.echo(f"{name}: {len(files)} files, {len(shown)} calls, {changes} changes of file")
        click.echo("  " + " ".join(file.removesuffix(".py") for file in files))
        for call in shown if calls else ():
            click.echo(f"    {'  ' * call.depth}{call.file} {call.name}")


def _stack(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        yield frame.f_code.co_filename
        frame = frame.f_back


@click.command()
@click.option("--calls", is_flag=True, help="Show each call.")
def main(calls: bool) -> None:
    """Walk an append to a reader here and to one elsewhere, and a reader's request until it is parked."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_walk(calls))


async def _walk(calls: bool) -> None:
    with TemporaryDirectory(prefix="run-gateway-walk-") as folder:
        async with EmbeddedPostgres(Path(folder) / "data") as postgres:
            await migrate(postgres.dsn)
            async with _machine(postgres.dsn) as here, _machine(postgres.dsn) as there:
                await asyncio.sleep(2)  # they have met
                await _append(here, "PUT")
                async with _reader(here):
                    (await _appended(here)).show("POST, to a reader here", calls=calls)
                async with _reader(there):
                    walk = await _appended(here)
                    walk.show("POST, to a reader at another Machine", calls=calls)
                    walk.show("  there", calls=calls, elsewhere=True)
                for _ in range(ROUNDS):
                    async with _reader(here):
                        pass
                walk = Walk()
                async with _reader(here, walk):
                    walk.show("GET, until it is parked", calls=calls)


async def _appended(port: int) -> Walk:
    """The way of an append behind others, on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    walk = Walk()
    for number in range(1, ROUNDS + 1):
        with walk.watching() if number == ROUNDS else nullcontext():
            await _answered(reader, writer, "POST", b'{"type":"token","text":"Hello"}')
    writer.close()
    return walk


async def _append(port: int, method: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await _answered(reader, writer, method, b'{"type":"begun"}')
    writer.close()


async def _answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, body: bytes) -> None:
    head = f"{method} /runs/1 HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    writer.write(head.encode() + b"\r\n\r\n" + body)
    await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(QUIET)


@asynccontextmanager
async def _reader(port: int, walk: Walk | None = None) -> AsyncIterator[None]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.sleep(QUIET)
    with walk.watching() if walk is not None else nullcontext():
        writer.write(b"GET /runs/1?offset=-1&live=sse HTTP/1.1\r\nhost: a\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(QUIET)
    try:
        yield
    finally:
        writer.close()


@asynccontextmanager
async def _machine(url: str) -> AsyncIterator[int]:
    bound = bind("127.0.0.1", 0)
    port: int = bound[0].getsockname()[1]
    settings = load(database_url=url, port=port, auth="none", drain_timeout=0.1)
    stop = Stop()
    serving = asyncio.ensure_future(serve(settings, url, Sockets(bound, []), stop))
    while True:
        try:
            (await asyncio.open_connection("127.0.0.1", port))[1].close()
            break
        except OSError:
            await asyncio.sleep(0.1)
    try:
        yield port
    finally:
        stop.signal(signal.SIGTERM)
        await serving


if __name__ == "__main__":
    main()
