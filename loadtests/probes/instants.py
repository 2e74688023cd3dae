"""What a thousand clients, another Machine or an agent server does in the same instant: more cases of `probes.worst`.

The Machine is stopped while they send, and then finds everything at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final
from uuid import uuid4

import asyncpg

from gateway.log.listener import CHANNEL
from loadtests.probes.worst import CROWD, EVENTS, JSON, PATIENCE, Act, House, case, quiet

MB: Final = 1_000_000
FRAMES: Final = 200_000  # of an answer, each of 10 bytes
CHAT: Final = "/api/chat"  # where the relay records
QUIET: Final = "/api/quiet"  # the same, of answers that are short
STREAM: Final = "/stream"  # what goes on, of the application
NEWS: Final = 5_000  # notifications in one transaction


_streams: Final[list[asyncio.StreamWriter]] = []


@contextmanager
def _stopped(house: House) -> Iterator[None]:
    """What is sent in this block is there in the same instant when the Machine goes on."""
    os.kill(house.machine.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(house.machine.pid, signal.SIGCONT)


def _of_instant(name: str, request: str, body: bytes = b"") -> None:
    """PATH is a run, OWN something else for each client."""

    @case(f"instant: {CROWD:,} clients send {name}")
    async def _(house: House) -> AsyncIterator[Act]:
        path = await house.made()
        await house.post(path, b"1")
        prefix = uuid4().hex.encode()

        def sent(number: int) -> bytes:
            head = f"{request.replace('PATH', path)} HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n"
            own = body.replace(b"OWN", b"%b-%d" % (prefix, number))
            message = f"{head}content-length: {len(own)}\r\n\r\n".encode() + own
            return message.replace(b"/OWN", b"/%b-%d" % (prefix, number))

        async with house.readers([path] * CROWD, "?meta") as readers:
            await asyncio.sleep(1)

            async def act() -> None:
                with _stopped(house):
                    for number, reader in enumerate(readers):
                        assert reader.transport is not None
                        reader.transport.write(sent(number))
                    await asyncio.sleep(0.2)
                await quiet(readers)

            yield act


_of_instant("an append", "POST PATH", b'{"type":"token","text":"Hel"}')
_of_instant("an append, over ASGI", "POST PATH?by=asgi", b'{"type":"token","text":"Hel"}')
_of_instant("a heartbeat", "POST PATH/heartbeat")
_of_instant("a catch-up", "GET PATH?offset=-1")
_of_instant("a catch-up by SSE", "GET PATH?offset=-1&live=sse")
_of_instant("a long-poll that is answered", "GET PATH?offset=-1&live=long-poll")
_of_instant("a HEAD", "HEAD PATH")
_of_instant("a creation", "POST /runs", b'{"input":{"text":"Hello"}}')
_of_instant("a cancel", "POST PATH/cancel", b"{}")
_of_instant("a read of a record", "GET PATH?meta")
_of_instant("a list", "GET /runs?limit=5")
_of_instant("a refusal", "GET /runs/none")
_of_instant("a look at /health", "GET /health")
_of_instant("appends of many streams", "POST /v1/appends", b'{"stream":"none"}\n1\n')
_of_instant("a request to the application", "GET /of-the-application")
_of_instant("a conversation's request to the application", "POST /ownedPATH", b"{}")
_of_instant("a request of a conversation each to the application", "POST /owned/runs/OWN", b"{}")
_of_instant("a POST of one chat, which is recorded", f"POST {QUIET}", b'{"id":"one"}')
_of_instant("a POST of a chat each, which are recorded", f"POST {QUIET}", b'{"id":"OWN"}')
_of_instant("a POST of a chat without a name", f"POST {QUIET}", b"{}")


@case(f"instant: the application sends {CROWD:,} clients a piece of an answer that goes on")
async def _(house: House) -> AsyncIterator[Act]:
    before = len(_streams)
    async with house.readers([STREAM] * CROWD, "") as readers:

        async def act() -> None:
            with _stopped(house):
                for writer in _streams[before:]:
                    writer.write(b"data: %0100d\n\n" % 7)
                await asyncio.sleep(0.2)
            await quiet(readers)

        yield act
    for writer in _streams[before:]:
        writer.close()


@case(f"instant: an event for {CROWD:,} readers of many streams")
async def _(house: House) -> AsyncIterator[Act]:
    paths = [await house.made() for _ in range(3)]
    query = "".join(f"&stream={path[1:]}" for path in paths)
    async with house.readers(["/v1/stream"] * CROWD, f"?live=sse{query}") as readers:

        async def act() -> None:
            assert await house.post(paths[0], b"1") == 204
            await quiet(readers)

        yield act


@case(f"instant: a run for {CROWD:,} readers of a list")
async def _(house: House) -> AsyncIterator[Act]:
    name = uuid4().hex
    async with house.readers(["/runs"] * CROWD, f"?live=sse&workflowName={name}") as readers:

        async def act() -> None:
            answer = await house.http.post("/runs", json={"workflowName": name})
            assert answer.status_code == 201, answer.text
            await quiet(readers)

        yield act


EVENTS["json: six events of 1 MB"] = (JSON, b"[%b]" % b",".join([b'"%b"' % (b"a" * MB)] * 6))


def _of_size(name: str, query: str, count: int, *, slow: bool) -> None:
    how = "do not read it for a moment, and then all read at once" if slow else "read it"

    @case(f"large: {name}: {count:,} readers{query} {how}")
    async def _(house: House) -> AsyncIterator[Act]:
        path = await house.made()
        async with house.readers([path] * count, query, begun="sse" in query) as readers:
            await asyncio.sleep(1)

            async def act() -> None:
                if slow:
                    for reader in readers:
                        reader.transport.pause_reading()  # type: ignore[union-attr]
                assert await house.post(path, EVENTS[name][1]) == 204
                if slow:
                    await asyncio.sleep(1)
                    for reader in readers:
                        reader.transport.resume_reading()  # type: ignore[union-attr]
                await quiet(readers, MB)

            yield act


for _count, _slow in ((CROWD, False), (300, True)):
    _of_size("json: six events of 1 MB", "?offset=now&live=sse", _count, slow=_slow)
_of_size("json: six events of 1 MB", "?offset=now&live=long-poll", 300, slow=True)


@case("large: 300 readers catch up with 6 MB, which they read at once")
async def _(house: House) -> AsyncIterator[Act]:
    path = await house.made()
    assert await house.post(path, EVENTS["json: six events of 1 MB"][1]) == 204

    async def act() -> None:
        async with house.readers([path] * 300, "?offset=-1&live=sse", begun=False) as readers:
            await quiet(readers, MB)

    yield act


# News, and answers of an agent server


def _of_news(name: str, payload: str, *, trusted: bool = False) -> None:
    @case(f"news: {NEWS:,} notifications at once, {name}")
    async def _(house: House) -> AsyncIterator[Act]:
        path = (await house.made())[1:]
        other = await asyncpg.connect(house.dsn)
        channel = await other.fetchval("SELECT run_gateway.listen()") if trusted else CHANNEL
        try:
            async with house.readers(["/" + path]) as readers:

                async def act() -> None:
                    async with other.transaction():
                        await other.execute(
                            "SELECT pg_notify($1, $2 || n) FROM generate_series(1, $3::int) n",
                            channel, payload.replace("PATH", path), NEWS,
                        )  # fmt: skip
                    await house.post("/" + path, b"1")
                    await quiet(readers)

                yield act
        finally:
            await other.close()


_of_news("of nothing", "rubbish ")
_of_news("of nothing, by a Machine", "rubbish ", trusted=True)
_of_news("of a run that is followed", "=machine\nPATH\n7\n7\nopen\n")
_of_news("of a run that is followed, by a Machine", "=machine\nPATH\n7\n7\nopen\n", trusted=True)
_of_news("of runs that are not there, by a Machine", "=machine\nruns/none\n1\n1\nopen\n", trusted=True)
_of_news("of Machines", "=machine\n\n0\n0\nping ")


@case(f"relay: an answer of {FRAMES:,} frames of 10 bytes, as fast as it comes")
async def _(house: House) -> AsyncIterator[Act]:
    async def act() -> None:
        size = 0
        body = b'{"id":"%b"}' % uuid4().hex.encode()
        async with house.http.stream("POST", CHAT, content=body, headers=JSON) as answer:
            async for piece in answer.aiter_raw():
                size += len(piece)
        assert size >= 10 * FRAMES, size

    yield act


async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An agent server that says everything at once."""
    target = (await reader.read(1 << 16)).split(b" ", 2)[1].decode()
    if target in (CHAT, QUIET, STREAM):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        writer.write(b"data: %02d\n\n" % 7 * (FRAMES if target == CHAT else 1))
        if target == STREAM:
            _streams.append(writer)
            return
    else:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
    async with asyncio.timeout(PATIENCE):
        await writer.drain()
    writer.close()
