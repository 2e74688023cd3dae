"""Requests that ask for another protocol, as `curl --http2` and the JDK's HttpClient do by themselves (RFC 9110 §7.8).

The wish is ignored, the request is done, its body read, and the connection goes on.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from tests.servers import PATIENCE, Running, body_of, serving

pytestmark = pytest.mark.asyncio(loop_scope="session")  # as the application behind the gateway

H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAA\r\n"
WISHES = {
    "h2c": H2C,
    "websocket": b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    "TLS": b"Upgrade: TLS/1.0, x/2\r\nConnection: uPGRADE\r\n",
    "without Connection": b"Upgrade: h2c\r\n",
    "in two lines": b"Connection: upgrade\r\nConnection: x\r\nUpgrade: h2c\r\nUpgrade: h3c\r\n",
}


async def application(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with the body that it is sent, however it comes."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    body = b""
    if length := re.search(rb"content-length: (\d+)", head):
        body = await reader.readexactly(int(length[1]))
    elif b"transfer-encoding: chunked" in head:
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()
    writer.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def upstream() -> AsyncIterator[str]:
    async with await asyncio.start_server(application, "127.0.0.1") as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture(scope="module")
def gateway(database_of_all: str, upstream: str) -> Iterator[Running]:
    behind: dict[str, Any] = {"upstream": upstream, "relay": "ai-sdk:/chat", "owned": "/owned/{id}"}
    patience: dict[str, Any] = {"append_timeout": PATIENCE, "statement_timeout": PATIENCE}  # hundreds ask at once
    with serving(database_of_all, "direct", max_subscription_changes=1_000, **behind, **patience) as running:
        yield running


class Way:
    """A request with a body, and where to see that it was done."""

    def __init__(self, method: str, target: str, body: str, seen: str, shows: str, first: str = "") -> None:
        self.id = uuid4().hex
        type = "x-ndjson" if target == "/v1/appends" else "json"
        head = f"{method} {self._of(target)} HTTP/1.1\r\nHost: h\r\nContent-Type: application/{type}\r\n"
        self.request = head.encode()
        self.body = self._of(body).encode()
        self.seen = self._of(seen).encode()
        self.shows = self._of(shows)
        self.first = self._of(first).encode()

    def _of(self, text: str) -> str:
        return text.replace("ID", self.id)

    def sent(self, wish: bytes, *, chunked: bool = False) -> bytes:
        if not chunked:
            return self.request + wish + b"Content-Length: %d\r\n\r\n" % len(self.body) + self.body
        half = len(self.body) // 2
        chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in (self.body[:half], self.body[half:]) if part]
        return self.request + wish + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(chunks) + b"0\r\n\r\n"

    @property
    def look(self) -> bytes:
        return b"GET " + self.seen + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


PUT = "PUT /runs/ID HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n"
EVENT = '{"type":"run_end"}'
SUBSCRIPTION = "/v1/stream/__ds/subscriptions/ID"
SUBSCRIBED = '{"type":"pull-wake","pattern":"ID/*","wake_stream":"ID-w"}'
END = PUT.replace("Content-Length", "Stream-Closed: true\r\nContent-Length")
WAYS = {
    "an append": ("POST", "/runs/ID", EVENT, "/runs/ID", f"[{EVENT}]", PUT),
    "a heartbeat": ("POST", "/runs/ID/heartbeat", "", "/runs/ID", "[]", PUT),
    "a creation": ("PUT", "/runs/ID", f"[{EVENT}]", "/runs/ID", f"[{EVENT}]"),
    "a run": ("POST", "/runs", '{"id":"ID"}', "/runs/ID?meta", "ID"),
    "a cancel": ("POST", "/runs/ID/cancel", '{"reason":"R-ID"}', "/runs/ID/control", "R-ID", PUT),
    "many appends": ("POST", "/v1/appends", '{"stream":"runs/ID"}\n' + EVENT + "\n", "/runs/ID", f"[{EVENT}]", PUT),
    "many streams": ("POST", "/v1/stream?live=sse", '{"streams":["runs/ID"]}', "/runs/ID", "[]", END),
    "a subscription": (
        "PUT",
        SUBSCRIPTION,
        SUBSCRIBED,
        SUBSCRIPTION,
        "ID-w",
        PUT.replace("/runs/ID", "/v1/stream/ID-w"),
    ),
    "the upstream": ("POST", "/app", "E-ID", "/runs/none", "not_found"),
    "the relay": ("POST", "/chat", '{"id":"ID"}', "/runs/none", "not_found"),
    "an owner": ("POST", "/owned/ID", "E-ID", "/runs/none", "not_found"),
}


async def talks(gateway: Running, *conversations: tuple[bytes, ...]) -> list[list[bytes]]:
    """The answers to these conversations, all at once, each on a connection of its own. Its next piece is sent when
    the gateway has had the one before.
    """
    heard = []
    async with asyncio.timeout(PATIENCE):
        connections = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in conversations]
        for number in range(max(map(len, conversations))):
            for (_, writer), pieces in zip(connections, conversations, strict=True):
                writer.write(b"".join(pieces[number : number + 1]))
            await gateway.get_raw("/health")  # it has read what was there before
        for reader, writer in connections:
            answers = await reader.read()
            writer.close()
            heard.append([b"HTTP/1.1 " + answer for answer in answers.split(b"HTTP/1.1 ")[1:]])
    return heard


def check(way: Way, answers: list[bytes]) -> None:
    assert len(answers) == 2 + bool(way.first), answers
    assert answers[-2][9:12] in (b"200", b"201", b"202", b"204"), answers
    if way.shows == "not_found":
        assert body_of(answers[-2]) == way.body, "the application had the body"
    assert way.shows in body_of(answers[-1]).decode(), answers


@pytest.mark.parametrize("chunked", [False, True], ids=["by length", "in chunks"])
@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("name", WAYS)
async def test_who_wishes_for_another_protocol_is_done_as_asked(
    gateway: Running, name: str, wish: str, chunked: bool
) -> None:
    way = Way(*WAYS[name])
    cut = Way(*WAYS[name])
    head, end, body = cut.sent(WISHES[wish], chunked=chunked).partition(b"\r\n\r\n")
    whole = way.first + way.sent(WISHES[wish], chunked=chunked) + way.look
    for each, answers in zip(
        (way, cut), await talks(gateway, (whole,), (cut.first, head + end, body, cut.look)), strict=True
    ):
        check(each, answers)


@pytest.mark.parametrize("chunked", [False, True], ids=["by length", "in chunks"])
@pytest.mark.parametrize("name", [name for name in WAYS if name != "a subscription"])
async def test_the_packets_of_such_a_request_make_no_difference(gateway: Running, name: str, chunked: bool) -> None:
    length = len(Way(*WAYS[name]).sent(H2C, chunked=chunked))
    ways = [(at, Way(*WAYS[name])) for at in range(1, length)]
    sent = [(at, way.first, way.sent(H2C, chunked=chunked), way.look) for at, way in ways]
    conversations = [(first + request[:at], request[at:] + look) for at, first, request, look in sent]
    for (_, way), answers in zip(ways, await talks(gateway, *conversations), strict=True):
        check(way, answers)


async def test_such_requests_follow_each_other_on_one_connection(gateway: Running) -> None:
    way = Way(*WAYS["an append"])
    end = way.look.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\n" + H2C.replace(b"Upgrade, ", b"Upgrade, close, "))
    (answers,) = await talks(gateway, (way.first + b"".join([way.sent(H2C)] * 3) + way.sent(b"") + end,))
    assert [answer[9:12] for answer in answers] == [b"201", b"204", b"204", b"204", b"204", b"200"]
    assert json.loads(body_of(answers[-1])) == [json.loads(EVENT)] * 4


async def test_a_web_socket_is_not_passed_to_the_upstream(gateway: Running) -> None:
    request = b"GET /app HTTP/1.1\r\nHost: h\r\n" + WISHES["websocket"].replace(b"keep-alive", b"close") + b"\r\n"
    assert (await gateway.raw(request)).startswith(b"HTTP/1.1 501 ")


def program(name: str, why: str) -> str:
    found = shutil.which(name)
    if found is None:
        assert "CI" not in os.environ, f"CI installs {name}"
        pytest.skip(f"without {name}, {why}")
    return found


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1)
    async with asyncio.timeout(PATIENCE):
        out, error = await process.communicate()
    assert process.returncode == 0, error.decode()
    return out.decode()


async def test_curl_with_http2_ends_a_run_with_its_event(gateway: Running) -> None:
    curl = program("curl", "its --http2 cannot be tried")
    url = f"{gateway.url}/runs/{uuid4().hex}"
    as_json = ("--http2", "-sS", "-H", "content-type: application/json", "-w", "%{http_code}")
    assert await run(curl, *as_json, "-X", "PUT", url, "-d", "[]") == "201"
    assert await run(curl, *as_json, url, "-H", "stream-closed: true", "-d", EVENT) == "204"
    assert await run(curl, *as_json, url) == f"[{EVENT}]200"


async def test_the_jdks_client_loses_no_body(gateway: Running) -> None:
    java = program("java", "its HttpClient cannot be tried")
    id = uuid4().hex
    lines = (await run(java, str(Path(__file__).parent / "Client.java"), gateway.url, id)).splitlines()
    assert lines == [
        "PUT 201",
        "POST 204",
        "POST 204",
        "cancel 202",
        "run 201",
        f'GET 200 [{{"n":0}},{{"n":1}},{EVENT}]',
        "control 200 true",
        f"meta 200 {id}-2",
        "app 200 echo",
    ]
