"""A table of abuse and what it gets: a clear refusal, an unchanged log, and nothing left behind."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from collections.abc import Iterator

import pytest

from tests.servers import Running, body_of, serving, until

RUN = b"/runs/target"
SSE = RUN + b"?offset=-1&live=sse"
STREAM = b"/v1/stream/text"
MANY = b"/v1/stream?live=sse"


def post(*headers: bytes, body: bytes = b"[1]", path: bytes = RUN, length: bytes | None = None) -> bytes:
    """A POST of JSON whose headers are as given; Connection: close stands in it, so that its answer ends."""
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: h", b"Connection: close"]
    if not any(header.lower().startswith(b"content-type") for header in headers):
        lines.append(b"Content-Type: application/json")
    lines += headers
    if not any(header.lower().startswith(b"transfer-encoding") for header in headers):
        lines.append(b"Content-Length: " + (b"%d" % len(body) if length is None else length))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def get(target: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"GET " + target + b" HTTP/1.1", b"Host: h", b"Connection: close", *headers, b"", b""])


def appends(body: bytes) -> bytes:
    return post(b"Content-Type: application/x-ndjson", path=b"/v1/appends", body=body)


CHUNKED = b"Transfer-Encoding: chunked"

ABUSE: dict[str, tuple[int, bytes]] = {
    # Where one server would see another request than the next one does (RFC 9112 §6, §11.2)
    "both lengths": (400, post(CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\nGET /runs/x HTTP/1.1\r\n\r\n")),
    "two lengths that differ": (400, post(b"Content-Length: 2")),
    "two lengths that agree": (400, post(b"Content-Length: 3")),
    "a negative length": (400, post(length=b"-1")),
    "a signed length": (400, post(length=b"+3")),
    "a length of many digits": (400, post(length=b"9" * 40)),
    "a length in hexadecimal": (400, post(length=b"0x3")),
    "an unknown coding": (400, post(b"Transfer-Encoding: xchunked", body=b"3\r\n[1]\r\n0\r\n\r\n")),
    "chunked, but not last": (400, post(b"Transfer-Encoding: chunked, identity", body=b"3\r\n[1]\r\n0\r\n\r\n")),
    "a chunk without a size": (400, post(CHUNKED, body=b"zz\r\n[1]\r\n0\r\n\r\n")),
    "a chunk that is too long": (400, post(CHUNKED, body=b"2\r\n[1]\r\n0\r\n\r\n")),
    "line feeds alone": (400, post().replace(b"\r\n", b"\n")),
    "a folded header": (400, post(b"X: a\r\n b")),
    "a space before the colon": (400, post(b"Stream-Closed : true")),
    "no host": (400, get(RUN).replace(b"Host: h\r\n", b"")),
    "two hosts": (400, get(RUN, b"Host: other")),
    "a host with a port that there is none of": (400, get(RUN).replace(b"Host: h", b"Host: h:65536")),
    "a POST to such a port": (400, post().replace(b"Host: h", b"Host: h:" + b"9" * 5_000)),
    "a target with such a port": (400, get(b"http://h:65536" + RUN)),
    "a version to come": (400, get(RUN).replace(b"HTTP/1.1", b"HTTP/9.9")),
    "a preface of HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "a greeting of TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40),
    # Too much
    "a header of 200 kB": (431, post(b"X: " + b"a" * 200_000)),
    "20,000 headers": (431, post(*[b"X%d: a" % n for n in range(20_000)])),
    "a target of 200 kB": (431, get(b"/runs/" + b"a" * 200_000)),
    "trailers of 200 kB": (431, post(CHUNKED, body=b"3\r\n[1]\r\n0\r\n" + b"X: aaaaaa\r\n" * 20_000 + b"\r\n")),
    "a trailer of 200 kB": (431, post(CHUNKED, body=b"3\r\n[1]\r\n0\r\nX: " + b"a" * 200_000 + b"\r\n\r\n")),
    "a chunk's extension of 200 kB": (431, post(CHUNKED, body=b"3;" + b"a" * 200_000 + b"\r\n[1]\r\n0\r\n\r\n")),
    "100,000 parameters": (431, get(RUN + b"?" + b"&".join([b"a%d=1" % n for n in range(100_000)]))),
    "1,000 parameters": (400, get(RUN + b"?" + b"&".join([b"a%d=1" % n for n in range(1_000)]))),
    "an id of 300 characters": (400, get(b"/runs/" + b"a" * 300)),
    "a body over the limit": (413, post(body=b"[%b]" % (b"1," * 60_000 + b"1"))),
    "a length over the limit": (413, post(length=b"9999999999", body=b"[1")),  # before the rest has come
    "a body over the limit, in chunks": (413, post(CHUNKED, body=b"20000\r\n" + b"1" * 0x20000 + b"\r\n0\r\n\r\n")),
    "a producer of 5,000 characters": (
        400,
        post(b"Producer-Id: " + b"p" * 5_000, b"Producer-Epoch: 0", b"Producer-Seq: 0"),
    ),
    "a sequence of 5,000 characters": (400, post(b"Stream-Seq: " + b"s" * 5_000)),
    "1,001 streams of one reader": (
        400,
        post(path=MANY, body=b'{"streams":[%b]}' % b",".join([b'"runs/%d"' % n for n in range(1_001)])),
    ),
    "300 streams in a query": (400, get(MANY + b"".join([b"&stream=runs/%d" % n for n in range(300)]))),
    "a fold of 1,000 names": (400, get(SSE + b"&fold=" + b",".join([b"n%d" % n for n in range(1_000)]) + b":x")),
    "appends without end": (400, appends(b'{"stream":"runs/target"}\n1\n{"stream":"runs/target"}')),
    "appends that are none": (400, appends(b"[1]\n[2]\n")),
    "appends of a deep head": (400, appends(b"[" * 40_000 + b"\n1\n")),
    # JSON that is none, or that Postgres, a client or a reader could not take
    "80,000 brackets": (400, post(body=b"[" * 40_000 + b"]" * 40_000)),
    "15,000 objects in one another": (400, post(body=b'{"":' * 15_000 + b"1" + b"}" * 15_000)),
    "a number of 50,000 digits": (400, post(body=b"[1%b]" % (b"0" * 50_000))),
    "an exponent without end": (400, post(body=b"[1e999]")),
    "not a number": (400, post(body=b"[NaN]")),
    "a surrogate in UTF-8": (400, post(body=b'["\xed\xa0\x80"]')),
    "bytes that are not UTF-8": (400, post(body=b'["\xff"]')),
    "a NUL as it is": (400, post(body=b'["\0"]')),
    "two values": (400, post(body=b"[1] [2]")),
    "a bomb to be unpacked": (415, post(b"Content-Encoding: gzip", body=gzip.compress(b"0" * 10_000_000))),
    # Twice, where once is meant
    "two types": (400, post(b"Content-Type: application/json", b"Content-Type: text/plain")),
    "two producers": (400, post(b"Producer-Id: a", b"Producer-Id: b", b"Producer-Epoch: 0", b"Producer-Seq: 0")),
    "two offsets": (400, get(RUN + b"?offset=-1&offset=now")),
    "two folds": (400, get(SSE + b"&fold=a:b&fold=c:d")),
    "a stream of many twice": (400, get(MANY + b"&stream=runs/target&stream=runs/target")),
    "two offsets, one escaped": (400, get(RUN + b"?offset=-1&off%73et=now")),
    # What would end a line or a statement
    "a line break in an id": (400, get(b"/runs/a%0d%0aX:%20y")),
    "a NUL in an id": (400, get(b"/runs/a%00")),
    "the separator of tenants in an id": (400, get(b"/runs/a%1fruns%2fb")),
    "bytes in an id that are not UTF-8": (400, get(b"/runs/%C3%28")),
    "a line break in an offset": (400, get(RUN + b"?live=sse&offset=-1%0aevent:%20x")),
    "a line break in Last-Event-ID": (400, get(SSE, b"Last-Event-ID: 1%0a2")),
    "a control character in a header": (400, post(b"Stream-Seq: a\x01b")),
    "a NUL in a header": (400, post(b"Producer-Id: a\0b")),
    "a line break in an offset of many": (400, get(MANY + b"&stream=runs/target&offset=1%0a2")),
    "a line break in a filter of a live list": (400, get(b"/runs?live=sse&status=a%0ab")),
    "a line break in an id of a live list": (400, get(b"/runs?live=sse", b"Last-Event-ID: 1%0a2")),
    "SQL for an id": (404, get(b"/runs/1%27%3B%20DROP%20TABLE%20run_gateway.streams%3B--")),
    "SQL for an offset": (400, get(RUN + b"?offset=-1%27%20OR%201=1")),
    # Other ways to the same place
    "dots": (400, get(b"/runs/../runs/target")),
    "escaped dots": (400, get(b"/runs/%2e%2e/runs/target")),
    "two slashes": (404, get(b"//runs/target")),
    "two slashes within": (404, get(b"/runs//target")),
    "a file of the host": (400, get(b"/v1/stream/../../../etc/passwd")),
    "another case": (404, get(b"/RUNS/target")),
    # Methods and upgrades
    "a method of nobody": (400, get(RUN).replace(b"GET", b"FOO")),
    "TRACE": (405, get(RUN).replace(b"GET", b"TRACE")),
    "PATCH": (405, get(RUN).replace(b"GET", b"PATCH")),
}  # fmt: skip


@pytest.fixture(scope="module")
def gateway(database_of_all: str) -> Iterator[Running]:
    with serving(database_of_all, "direct", max_body=100_000, long_poll_timeout=0.5) as running:
        for path, type in ((RUN, b"application/json"), (STREAM, b"text/plain")):
            asyncio.run(running.raw(post(b"Content-Type: " + type, path=path, body=b"").replace(b"POST", b"PUT", 1)))
        yield running


@pytest.fixture(scope="module")
def impatient(database_of_all: str) -> Iterator[Running]:
    """Another over the same log, which soon gives up a request that does not come."""
    with serving(database_of_all, "direct", max_body=100_000, request_timeout=1) as running:
        yield running


async def content(gateway: Running) -> tuple[bytes, ...]:
    """Everything that the log holds for those who are attacked."""
    return tuple([body_of(await gateway.raw(get(path))) for path in (RUN, STREAM)])


def descriptors() -> int:
    """How many this process has open; 0 where the system does not tell."""
    return len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0


def status_of(answer: bytes) -> int:
    return int(answer[9:12])


@pytest.mark.parametrize("name", ABUSE)
async def test_abuse_is_refused_and_changes_nothing(gateway: Running, name: str) -> None:
    status, request = ABUSE[name]
    answer = await gateway.raw(request)
    assert status_of(answer) == status, answer
    assert answer.count(b"HTTP/1.1 ") == 1, "one request, one answer"
    error = json.loads(body_of(answer))["error"]
    assert error["type"]
    assert error["message"]
    assert await content(gateway) == (b"[]", b"")


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"POST",
        b"POST /runs/target HTTP/1.1\r\nHost: h\r\nX",
        post(length=b"100", body=b"[1"),
        post(length=b"99999", body=b"[1"),
        post(CHUNKED, body=b"3\r\n[1"),
        post(CHUNKED, body=b"3\r\n[1]\r\n0\r\n"),
    ],
    ids=["nothing", "a method", "half a head", "half a body", "half a long body", "half a chunk", "no last chunk"],
)
async def test_who_does_not_finish_a_request_is_not_waited_for(
    gateway: Running, impatient: Running, begun: bytes
) -> None:
    answer = await impatient.raw(begun)
    assert status_of(answer) == 408 if begun else answer == b""
    assert await content(gateway) == (b"[]", b"")


async def test_bytes_that_come_one_by_one_are_too_slow(gateway: Running, impatient: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient.port)
    async with asyncio.timeout(60):
        for byte in post(b"X: " + b"a" * 500):
            writer.write(bytes([byte]))
            if reader.at_eof() or writer.transport.is_closing():
                break
            await asyncio.sleep(0.02)
        assert status_of(await reader.read()) == 408
    writer.close()
    assert await content(gateway) == (b"[]", b"")


async def test_rubbish_behind_a_request_does_not_pass_for_its_answer(gateway: Running) -> None:
    """An append whose outcome is on its way, and then something that is no request: the 400 would be read as its."""
    request = post(b"Content-Type: text/plain", path=b"/v1/stream/none", body=b"x").replace(
        b"Connection: close\r\n", b""
    )
    answer = await gateway.raw(request + b"\0\0\0\r\n\r\n")
    assert answer == b"" or status_of(answer) == 404


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c"])
async def test_an_upgrade_is_not_made_and_the_request_is_answered(gateway: Running, upgrade: bytes) -> None:
    answer = await gateway.raw(get(RUN, b"Upgrade: " + upgrade).replace(b"Connection: close", b"Connection: Upgrade"))
    assert status_of(answer) == 200
    assert body_of(answer) == b"[]"


async def test_no_client_can_end_a_line_of_an_event_stream(gateway: Running) -> None:
    """Payloads, ids, cursors and types: whatever stands in them, a reader finds only the events that were appended."""
    path = b"/v1/stream/lines"
    await gateway.raw(post(b"Content-Type: text/plain", path=path, body=b"").replace(b"POST", b"PUT", 1))
    forged = b"a\nevent: control\ndata:{}\r\rdata: b\r\n\r\nid: 9\n\nretry: 1"
    await gateway.raw(post(b"Content-Type: text/plain", path=path, body=forged))
    await gateway.raw(post(b"Content-Type: text/plain", b"Stream-Closed: true", path=path, body=b"end"))
    answer = body_of(await gateway.raw(get(path + b"?offset=-1&live=sse&cursor=%0a%0aevent:%20x")))
    blocks = [block for block in answer.split(b"\n\n") if block]
    assert [line for block in blocks for line in block.split(b"\n") if line.startswith(b"event:")] == [
        b"event: data",
        b"event: control",
    ]
    assert b"\r" not in answer


async def test_a_nul_in_a_string_is_kept_as_it_was_written(gateway: Running) -> None:
    """Postgres's text cannot hold it; the log's bytes can."""
    path = b"/runs/nul"
    await gateway.raw(post(path=path, body=b"").replace(b"POST", b"PUT", 1))
    assert status_of(await gateway.raw(post(path=path, body=b'["\\u0000"]'))) == 204
    assert body_of(await gateway.raw(get(path))) == b'["\\u0000"]'


async def test_nothing_is_left_behind(gateway: Running) -> None:
    """Every kind of abuse at once, five times over: no connection, no task and no descriptor stays."""
    await content(gateway)
    await until(lambda: not gateway.server.server_state.connections)
    before = descriptors()
    await asyncio.gather(*[gateway.raw(request) for _, request in ABUSE.values() for _ in range(5)])
    await until(lambda: not gateway.server.server_state.connections and not gateway.server.server_state.tasks)
    assert descriptors() <= before + 8, "a pool may have grown to its size; nothing else may"
