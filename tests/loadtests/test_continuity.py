"""The reader that checks: no event is skipped, repeated or missed without its saying so, however the bytes come."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from loadtests.bench.clients.load import Read, check
from loadtests.bench.clients.program import Program
from loadtests.bench.lab import compile_tool
from loadtests.bench.processes import Failed
from loadtests.bench.stats import Histogram

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


def frame(*numbers: int) -> bytes:
    events = b",".join(b'{"n":"%010d","t":"%016d","p":"..."}' % (n, 1) for n in numbers)
    return b'event: data\ndata:[%b]\n\nevent: control\ndata:{"streamNextOffset":"0_%d"}\n\n' % (events, numbers[-1])


def chunked(*frames: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in frames)


@asynccontextmanager
async def serving(pieces: Sequence[bytes], asked: list[bytes]) -> AsyncIterator[int]:
    """A server that answers one reader with these pieces, one write each, and then stays silent."""
    done = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        await done.wait()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        done.set()
        server.close()
        await server.wait_closed()


async def read(folder: Path, pieces: Sequence[bytes], until: int) -> Read:
    """What one reader has seen when it has come to event `until`."""
    asked: list[bytes] = []
    async with (
        serving(pieces, asked) as port,
        Program.start(await compile_tool("readers", folder), port=port, path="/r%r?offset=%o", readers=1) as program,
    ):
        assert await program.line(60) == {"event": "ready"}
        async with asyncio.timeout(60):
            seen = Read.parse(await program.ask("stats"))
            while seen.reached < until:
                seen = Read.parse(await program.ask("stats"))
    assert asked[0].startswith(b"GET /r0?offset=0000000000000000 HTTP/1.1\r\n")
    return seen


async def test_events_in_order_are_counted(tmp_path: Path) -> None:
    seen = await read(tmp_path, [HEAD, chunked(frame(1), frame(2, 3))], 3)
    assert (seen.events, seen.reached, seen.gaps, seen.repeats) == (3, 3, 0, 0)
    assert seen.latency.count == 3


async def test_bytes_may_be_cut_anywhere(tmp_path: Path) -> None:
    whole = HEAD + chunked(frame(1), frame(2, 3), frame(4))
    seen = await read(tmp_path, [whole[at : at + 1] for at in range(len(whole))], 4)
    assert (seen.events, seen.reached, seen.gaps, seen.repeats) == (4, 4, 0, 0)


async def test_an_event_may_be_cut_by_a_chunk(tmp_path: Path) -> None:
    whole = frame(1, 2)
    seen = await read(tmp_path, [HEAD, chunked(whole[:40], whole[40:41], whole[41:])], 2)
    assert (seen.events, seen.gaps, seen.repeats) == (2, 0, 0)


async def test_a_skipped_event_is_a_gap(tmp_path: Path) -> None:
    seen = await read(tmp_path, [HEAD, chunked(frame(1), frame(3))], 3)
    assert (seen.gaps, seen.repeats) == (1, 0)


async def test_a_repeated_event_is_told(tmp_path: Path) -> None:
    seen = await read(tmp_path, [HEAD, chunked(frame(1), frame(2), frame(2), frame(1, 3))], 3)
    assert (seen.gaps, seen.repeats) == (0, 2)


async def test_a_refusal_ends_the_reader_with_what_was_said(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="503 Service Unavailable"):
        await read(tmp_path, [b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"], 1)


NOTHING = Histogram(())


def seen(reached: int, gaps: int = 0, repeats: int = 0) -> Read:
    return Read(1, reached, 0, reached, gaps, repeats, 0, 0, NOTHING, NOTHING)


def test_readers_that_have_everything_once_are_right() -> None:
    check(seen(10), 10, final=True)


def test_readers_may_be_behind_until_the_end() -> None:
    check(seen(9), 10, final=False)
    with pytest.raises(Failed, match="9 events of 10"):
        check(seen(9), 10, final=True)


def test_gaps_repeats_and_invented_events_are_failures_at_once() -> None:
    for wrong in (seen(10, gaps=1), seen(10, repeats=1), seen(11)):
        with pytest.raises(Failed):
            check(wrong, 10, final=False)
