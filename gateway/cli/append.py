"""`run-gateway append`: lines of stdin become events of a run, every line exactly once."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import threading
from collections.abc import AsyncIterator

import click

from gateway.cli.progress import progress
from gateway.cli.remote import session, token_option, url_option
from gateway.client import NoSuchStream, Producer, Session, stream_url
from gateway.process.exit_codes import Failure, Misuse, finish
from gateway.protocol.json_body import fault_of

CHUNK = 64 * 1024
"""Bytes read from stdin at once."""
CHUNKS_AHEAD = 8
"""Chunks held at once, and so the bound of a batch, but for one longer line."""
PATIENCE = 300.0
"""Seconds of no answer, or none but failures, after which it gives up."""


def _producer_id(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is not None and not (value and value.isascii() and value.isprintable()):
        raise click.BadParameter("must be printable ASCII, and not empty")
    return value


@click.command(short_help="Append the lines of stdin to a run, each once.")
@click.argument("run")
@url_option
@token_option
@click.option("--create", is_flag=True, help="Create the run first, unless it exists.")
@click.option("--close", is_flag=True, help="Close the run after the last line.")
@click.option("--producer-id", callback=_producer_id, help="Take over this producer's id; by default a new random one.")
def append(run: str, url: str, token: str | None, create: bool, close: bool, producer_id: str | None) -> None:
    """Append events from stdin to RUN, one JSON text per line, and print the next offset.

    RUN is the id of a run, its address (streamUrl), or the path of any stream with its leading slash:
    /v1/stream/orders. Lines are sent as they come, and sent again until it is certain that each one is in the
    log exactly once.
    """
    if sys.stdin is None:  # closed: its descriptor may by now be anything
        raise Misuse("there is no stdin")
    finish(_append(stream_url(url, run), token, create, close, producer_id))


async def _append(url: str, token: str | None, create: bool, close: bool, producer_id: str | None) -> None:
    async with session(patience=PATIENCE, token=token) as http:
        try:
            click.echo(await _send(http, url, create, close, producer_id))
        except NoSuchStream as error:
            raise error if create else NoSuchStream(f"{error} (--create makes it)") from None


async def _send(http: Session, url: str, create: bool, close: bool, producer_id: str | None) -> str:
    """Sends everything on stdin; returns the offset after it."""
    producer = Producer(http, url, producer_id)
    offset = await producer.create() if create else None
    events = _Events()
    with progress("bytes") as told:
        told.whole = _size()
        async for chunk in _stdin():
            if batch := events.feed(chunk):
                offset = await producer.append(batch)
            told.add(len(chunk))
            events.check()
    if batch := events.end():
        offset = await producer.append(batch)
    events.check()
    if close:
        offset = await producer.close()
    return offset if offset is not None else str((await http.head(url)).headers["stream-next-offset"])


class _Events:
    """Chunks of bytes -> the JSON texts of the lines that end in them; none after a line that is not JSON."""

    def __init__(self) -> None:
        self._rest = b""
        self._line = 0
        self._fault: str | None = None

    def feed(self, chunk: bytes) -> list[bytes]:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return self._valid(lines)

    def end(self) -> list[bytes]:
        """The last line, when no line end follows it."""
        lines, self._rest = [self._rest], b""
        return self._valid(lines)

    def check(self) -> None:
        """Raises Failure if there was a line that is not JSON. The lines before it have been given back."""
        if self._fault is not None:
            raise Failure(self._fault)

    def _valid(self, lines: list[bytes]) -> list[bytes]:
        events = []
        for line in lines:
            self._line += 1
            if not line.strip():
                continue
            if (fault := fault_of(line)) is not None:  # as the gateway judges it, so that nothing else comes back
                why = fault.replace(" at line 1, column", " at column").removesuffix(".")
                self._fault = f"line {self._line} is not JSON: {why}; those before it are appended"
                break
            events.append(line.strip())
        return events


def _size() -> int | None:
    """The bytes that stdin holds, if it is a file."""
    status = os.fstat(0)
    return status.st_size if stat.S_ISREG(status.st_mode) else None


async def _stdin() -> AsyncIterator[bytes]:
    """Lines of stdin, as soon as they are there; the next are read while the last are being sent. Raises Failure."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes | OSError] = asyncio.Queue()
    room = threading.Semaphore(CHUNKS_AHEAD)

    def read() -> None:
        chunk: bytes | OSError = b"-"
        while chunk and isinstance(chunk, bytes):
            room.acquire()
            try:
                chunk = os.read(0, CHUNK)
            except OSError as error:
                chunk = error
            if loop.is_closed():
                return
            loop.call_soon_threadsafe(chunks.put_nowait, chunk)

    # A thread, since a file cannot be waited for by the loop; a daemon, since a terminal may never end.
    threading.Thread(target=read, name="stdin", daemon=True).start()
    while True:
        there = [await chunks.get()]
        while not chunks.empty():
            there.append(chunks.get_nowait())
        for chunk in there:
            room.release()
            if isinstance(chunk, OSError):
                raise Failure(f"cannot read stdin: {chunk.strerror}")
        if text := b"".join(chunk for chunk in there if isinstance(chunk, bytes)):
            yield text
        if not there[-1]:
            return
