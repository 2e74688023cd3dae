"""A fuzzer of raw bytes: requests that are cut, mixed, mutated, pipelined and left half-way, by seed.

Whatever is sent: every byte that comes back is a sequence of responses of HTTP/1.1, none of them is a 500, the log has
no traceback, and nothing is left behind.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.databases import Postgres
from tests.servers import Running, serving, until

SEEDS = range(8)
CONNECTIONS = 60  # of each seed
PATIENCE = 60

JSON = b"Content-Type: application/json\r\n"
HOST = b"Host: h\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
H2C = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
REQUESTS = (
    b"POST /runs/f HTTP/1.1\r\n" + HOST + JSON + b"Content-Length: 7\r\n\r\n" + b'{"a":1}',
    b"POST /runs/f HTTP/1.1\r\n"
    + HOST
    + JSON
    + b"Transfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\n2\r\n2]\r\n0\r\nX: y\r\n\r\n",
    b"POST /runs/f HTTP/1.1\r\n" + HOST + JSON + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n1",
    b"POST /runs/none HTTP/1.1\r\n" + HOST + JSON + b"Content-Length: 40000\r\n\r\n" + b"[" + b" " * 39_998 + b"]",
    b"PUT /runs/f HTTP/1.1\r\n" + HOST + JSON + b"Content-Length: 0\r\n\r\n",
    b"POST /runs HTTP/1.1\r\n" + HOST + JSON + b"Content-Length: 2\r\n\r\n{}",
    b"GET /runs/f?offset=-1 HTTP/1.1\r\n" + HOST + b"\r\n",
    b"HEAD /runs/f HTTP/1.1\r\n" + HOST + b"\r\n",
    b"HEAD /runs/none HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /runs/f?offset=-1&live=sse HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /runs/f?offset=now&live=long-poll HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /runs/f?meta&wait=1 HTTP/1.1\r\n" + HOST + b"\r\n",
    b"POST /runs/f/cancel HTTP/1.1\r\n"
    + HOST
    + JSON
    + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /runs?limit=2 HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /health HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
    b"GET /openapi.json HTTP/1.0\r\n\r\n",
    b"GET http://other/health HTTP/1.1\r\n" + HOST + b"\r\n",
    b"CONNECT h:80 HTTP/1.1\r\n" + HOST + b"\r\n",
    b"TRACE /runs/f HTTP/1.1\r\n" + HOST + b"\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    b"DELETE /runs/g HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nabcde",
)
PIECES = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\0", b" ", b":", b"\xff", b"HTTP/1.1", b"HTTP/1.0", b"0\r\n\r\n", b"zz\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Content-Length: 5\r\n", HOST,
    b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: websocket\r\n", b"Expect: 100-continue\r\n",
    b"X: " + b"y" * 40_000 + b"\r\n", b"%00", b"?token=&a&a", b"Accept: text/event-stream\r\n", b"Last-Event-ID: 1\r\n",
)  # fmt: skip


def conversation(chance: random.Random) -> list[bytes]:
    """Some requests, a few of them mutated, cut anywhere."""
    sent = bytearray()
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        request = bytearray(chance.choice(REQUESTS))
        if chance.random() < 0.6:
            for _ in range(chance.choice((1, 1, 2, 5))):
                at = chance.randrange(len(request) + 1)
                kind = chance.randrange(4)
                if kind == 0:
                    request[at:at] = chance.choice(PIECES)
                elif kind == 1:
                    del request[at : at + chance.choice((1, 2, 10))]
                elif kind == 2 and at < len(request):
                    request[at] = chance.randrange(256)
                else:  # among the headers, where it is read as one
                    line = request.find(b"\r\n") + 2
                    request[line:line] = chance.choice(PIECES)
        sent += request
    cuts = sorted(chance.randrange(len(sent) + 1) for _ in range(chance.choice((0, 0, 1, 2, 5))))
    pieces = [bytes(sent[a:b]) for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    return pieces if chance.random() < 0.8 else pieces[:-1]


def framed(answers: bytes) -> tuple[list[int], bytes]:
    """The statuses of a sequence of responses, and what is left of one that is not whole. Raises AssertionError."""
    statuses: list[int] = []
    while answers:
        head, end, rest = answers.partition(b"\r\n\r\n")
        if not end:
            assert answers.startswith(b"HTTP/1.1 "[: len(answers)]), answers[:200]
            return statuses, answers
        first, *lines = head.split(b"\r\n")
        assert first.startswith(b"HTTP/1.1 ") and first[9:12].isdigit(), answers[:200]
        status = int(first[9:12])
        headers = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
        if status >= 200:
            statuses.append(status)
        if status < 200 or status in (204, 304):
            answers = rest
        elif headers.get(b"transfer-encoding") == b"chunked":
            answers, whole = _unchunked(rest)
            if not whole:
                return statuses, answers
        else:
            length = int(headers.get(b"content-length", b"0"))
            # HEAD has a length and no body: then the next response, or nothing, follows the head.
            if rest.startswith(b"HTTP/1.1 ") or not rest:
                answers = rest
            else:
                if len(rest) < length:
                    return statuses, rest
                answers = rest[length:]
    return statuses, b""


def _unchunked(rest: bytes) -> tuple[bytes, bool]:
    """What comes after a chunked body, and whether that has ended."""
    if rest.startswith(b"HTTP/1.1 "):
        return rest, True  # of HEAD
    while True:
        size, end, after = rest.partition(b"\r\n")
        if not end:
            return rest, False
        length = int(size, 16)
        if len(after) < length + 2:
            return rest, False
        assert after[length : length + 2] == b"\r\n", rest[:200]
        rest = after[length + 2 :]
        if not length:
            return rest, True


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def database_of_all(postgres: Postgres) -> AsyncIterator[str]:
    async with postgres.database() as url:
        yield url


async def talk(gateway: Running, chance: random.Random) -> None:
    pieces = conversation(chance)
    ending = chance.choice(("stays", "stays", "half-closes", "half-closes early", "leaves"))
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        try:
            for number, piece in enumerate(pieces):
                if number and chance.random() < 0.5:
                    await asyncio.sleep(0)
                writer.write(piece)
                if ending == "half-closes early" and number == 0:
                    break
            if ending == "leaves":
                writer.transport.abort()
                return
            if ending != "stays":
                writer.write_eof()
            answers = b""
            while piece := await reader.read(1 << 16):
                answers += piece
            statuses, left = framed(answers)
            assert 500 not in statuses, (pieces, answers)
            assert not left or ending != "stays", ("cut off", pieces, answers)
        except ConnectionError:
            pass  # whoever breaks off may be broken off
        finally:
            writer.close()


@pytest.mark.asyncio(loop_scope="session")
async def test_no_bytes_cause_a_500_a_traceback_or_a_wrong_frame(
    database_of_all: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(
        database_of_all,
        "direct",
        long_poll_timeout=0.5,
        sse_max_age=0.5,
        request_timeout=1,
        keep_alive=1,
        max_body=50_000,
    ) as gateway:
        gateway.server.config.timeout_keep_alive = 1
        await gateway.raw(REQUESTS[4].replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        with caplog.at_level(logging.INFO):
            for seed in SEEDS:
                chance = random.Random(seed)
                await asyncio.gather(*[talk(gateway, random.Random(chance.random())) for _ in range(CONNECTIONS)])
            state = gateway.server.server_state
            await until(lambda: not state.connections and not state.tasks)
        assert gateway.app.bodies.held == 0
        assert gateway.app._limits.readers.sse.count == gateway.app._limits.readers.long_polls.count == 0
        with socket.create_connection(("127.0.0.1", gateway.port), 10):
            pass
    told = [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]
    assert not told, [(record.getMessage(), record.exc_info) for record in told][:3]
