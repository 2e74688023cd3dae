"""A fuzzer of raw bytes: requests that are cut, mixed, mutated, pipelined and left half-way, by seed.

Whatever is sent: every byte that comes back is a sequence of responses of HTTP/1.1, each framed in one way. None is a
500, there are no more of them than requests, the log has no traceback, and nothing is left behind. What is sent as
it should be is answered to the last, each request once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import socket

import pytest

from tests.servers import Running, serving, until

SEEDS = range(int(os.environ.get("BYTE_SEEDS", "8")))  # more by hand
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
    b"POST /runs/f HTTP/1.1\r\n"
    + HOST
    + JSON
    + CHUNKED
    + b'\r\n3;a=b;c="d;e"\r\n[1]\r\n000;x\r\nX: y\r\nHost: z\r\n\r\n',
    b"PUT http://h/v1/stream/t HTTP/1.1\r\n" + HOST + b"Content-Type: text/plain\r\nContent-Length: 3\r\n\r\nabc",
    b"GET /runs/f HTTP/1.1\r\n"
    + HOST
    + b"!#$%&'*+-.^_`|~9: odd\r\nX:\r\nY: \t z \t\r\n"
    + b"N" * 9_000
    + b": v\r\n\r\n",
    b"GET /runs/f?offset=-1&fold=a:b,c HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /runs/f?offset=now&live=sse&fold=a:b HTTP/1.1\r\n" + HOST + b"Last-Event-ID: 0\r\n\r\n",
    b"GET /runs?live=sse&status=active HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /v1/stream?live=sse&stream=runs/f&stream=t&stream=none HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /v1/stream?live=sse&metadata.a=b HTTP/1.1\r\n" + HOST + b"\r\n",
    b"POST /v1/stream?live=sse HTTP/1.1\r\n"
    + HOST
    + JSON
    + b"Content-Length: 49\r\n\r\n"
    + b'{"streams":["t",{"stream":"runs/f","token":"x"}]}',
    b"POST /v1/stream?live=sse HTTP/1.1\r\n" + HOST + JSON + b"Content-Length: 17\r\n\r\n" + b'{"streams":["t"]}',
    b"POST /v1/appends HTTP/1.1\r\n"
    + HOST
    + b"Content-Type: application/x-ndjson\r\nContent-Length: 32\r\n\r\n"
    + b'{"stream":"runs/f"}\n[{"a":1},2]\n',
    b"GET /v1/stream/__ds/subscriptions HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /client.js HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /ui HTTP/1.1\r\n" + HOST + b"\r\n",
)
PIECES = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\0", b" ", b":", b"\xff", b"HTTP/1.1", b"HTTP/1.0", b"0\r\n\r\n", b"zz\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Content-Length: 5\r\n", HOST,
    b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: websocket\r\n", b"Expect: 100-continue\r\n",
    b"X: " + b"y" * 40_000 + b"\r\n", b"%00", b"?token=&a&a", b"Accept: text/event-stream\r\n", b"Last-Event-ID: 1\r\n",
    b" folded\r\n", b"\tfolded\r\n", b"N" * 40_000 + b": v\r\n", b": no name\r\n", b"a b: c\r\n", b"a: b\rc\r\n",
    b";" * 20_000, b";e=" + b"x" * 9_000, b"http://other:99999", b"Content-Length: 0x5\r\n",
    b"Transfer-Encoding:\tchunked\r\n",
)  # fmt: skip


def conversation(chance: random.Random) -> tuple[list[bytes], list[bytes] | None]:
    """Some requests, cut anywhere, and their methods; None: a few of them are mutated, or the last is not whole."""
    sent, methods, whole = bytearray(), [], True
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        request = bytearray(chance.choice(REQUESTS))
        methods.append(bytes(request.partition(b" ")[0]))
        if chance.random() < 0.5:
            whole = False
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
    if chance.random() < 0.2:
        return pieces[:-1], None
    return pieces, methods if whole else None


HEAD = re.compile(
    rb"HTTP/1\.1 (?P<status>[1-5][0-9]{2}) [^\r\n]*(?:\r\n[!#$%&'*+.^_`|~0-9a-z-]+: [\t -~]*)*\r\n\r\n", re.IGNORECASE
)
Answer = tuple[int, dict[bytes, bytes]]


def framed(answers: bytes, methods: list[bytes] | None = None) -> tuple[list[Answer], bytes]:
    """The final ones of a sequence of responses, and what is left of one that is not whole. Raises AssertionError.

    `methods`: of the requests, which say whether a response has a body. Where they are not known, a response without
    the body that it tells of counts as one to HEAD.
    """
    found: list[Answer] = []
    while answers:
        head = HEAD.match(answers)
        if head is None:
            assert b"\r\n\r\n" not in answers and answers.startswith(b"HTTP/1.1 "[: len(answers)]), answers[:200]
            return found, answers
        status, rest = int(head["status"]), answers[head.end() :]
        lines = [line.partition(b": ") for line in head[0].split(b"\r\n")[1:-2]]
        headers = {name.lower(): value for name, _, value in lines}
        framing = [name.lower() for name, _, _ in lines if name.lower() in (b"content-length", b"transfer-encoding")]
        assert b"connection" not in headers or status >= 200
        if status < 200:
            assert not framing, head[0]
            answers = rest
            continue
        assert methods is None or len(found) < len(methods), "an answer to nothing"
        method = None if methods is None else methods[len(found)]
        if status in (204, 304):
            assert b"transfer-encoding" not in framing and headers.get(b"content-length", b"0") == b"0", head[0]
            answers = rest
        else:
            bodiless = method == b"HEAD" if method else not rest or rest.startswith(b"HTTP/1.1 ")
            assert len(framing) == 1 or (bodiless and not framing), head[0]  # two ends are none (RFC 9112 §6.3)
            if bodiless:
                answers = rest
            elif framing == [b"transfer-encoding"]:
                assert headers[b"transfer-encoding"] == b"chunked", head[0]
                answers, whole = _unchunked(rest)
                if not whole:
                    return found, answers
            else:
                length = int(headers[b"content-length"])
                if len(rest) < length:
                    return found, rest
                answers = rest[length:]
        found.append((status, headers))
        if headers.get(b"connection") == b"close":
            assert not answers, ("behind the last", answers[:200])
    return found, b""


def _unchunked(rest: bytes) -> tuple[bytes, bool]:
    """What comes after a chunked body, and whether that has ended."""
    while True:
        size, end, after = rest.partition(b"\r\n")
        if not end:
            return rest, False
        assert re.fullmatch(b"[0-9a-fA-F]+", size), rest[:200]
        length = int(size, 16)
        if len(after) < length + 2:
            return rest, False
        assert after[length : length + 2] == b"\r\n", rest[:200]
        rest = after[length + 2 :]
        if not length:
            return rest, True


def judge(answers: bytes, sent: bytes, methods: list[bytes] | None, stays: bool) -> None:
    """Raises AssertionError for what may not come back. `stays`: the client waits until the server ends."""
    found, left = framed(answers, methods)
    assert 500 not in [status for status, _ in found], answers
    assert len(found) <= sent.count(b"HTTP/1.") + 1, "one for each request, and one for rubbish"
    if stays:
        assert not left, ("cut off", answers)
        if methods is not None:
            last = found[-1][1].get(b"connection") == b"close" if found else False
            assert len(found) == len(methods) or (last and len(found) < len(methods)), (len(found), methods, answers)


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
WRONG = {
    "a traceback's status": b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n",
    "one too many": OK * 2,
    "one too few": b"",
    "a length that is too long": OK.replace(b": 2", b": 3"),
    "a length that is too short": OK.replace(b": 2", b": 1"),
    "no length": OK.replace(b"content-length: 2\r\n", b""),
    "both lengths": OK.replace(b"\r\n\r\n", b"\r\ntransfer-encoding: chunked\r\n\r\n"),
    "two lengths": OK.replace(b"\r\n\r\n", b"\r\ncontent-length: 2\r\n\r\n"),
    "no last chunk": OK.replace(b"content-length: 2", b"transfer-encoding: chunked").replace(b"ok", b"2\r\nok\r\n"),
    "a chunk without an end": OK.replace(b"content-length: 2", b"transfer-encoding: chunked") + b"2\r\nokok0\r\n\r\n",
    "a body of no content": OK.replace(b"200 OK", b"204 No Content"),
    "a line break in a header": OK.replace(b"\r\n\r\n", b"\r\nx: a\nb\r\n\r\n"),
    "a body behind a HEAD": OK,
    "an interim answer alone": b"HTTP/1.1 100 Continue\r\n\r\n",
    "something behind the last": OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") + OK,
}


@pytest.mark.parametrize("name", WRONG)
def test_the_judge_finds_what_is_wrong(name: str) -> None:
    method = b"HEAD" if name == "a body behind a HEAD" else b"GET"
    sent = method + b" / HTTP/1.1\r\n" + HOST + b"\r\n"
    judge(b"HTTP/1.1 100 Continue\r\n\r\n" + OK[: -2 if method == b"HEAD" else None], sent, [method], stays=True)
    with pytest.raises(AssertionError):
        judge(WRONG[name], sent, [method], stays=True)


async def talk(gateway: Running, chance: random.Random) -> None:
    pieces, methods = conversation(chance)
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
            judge(answers, b"".join(pieces), methods, stays=ending == "stays")
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
