"""What an app is asked so that it looks after what others left, and what is made of answers that were not expected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from gateway.owner.flue.wake import Waker


@dataclass
class App:
    """Answers each POST with the next status. `asked` has the heads of the requests."""

    statuses: list[int]
    port: int = 0
    asked: list[str] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
                await reader.readexactly(length)
                self.asked.append(head)
                writer.write(b"HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n" % self.statuses.pop(0))
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    def waker(self, authorization: str | None = None) -> Waker:
        return Waker(f"http://127.0.0.1:{self.port}", "/agents/chat", authorization)


@asynccontextmanager
async def serving(*statuses: int) -> AsyncIterator[App]:
    app = App(list(statuses))
    server = await asyncio.start_server(app.answer, "127.0.0.1", 0)
    app.port = server.sockets[0].getsockname()[1]
    async with server:
        yield app


async def test_a_message_is_refused_and_its_trace_taken_away() -> None:
    async with serving(500, 200) as app:
        waker = app.waker("Bearer x")
        assert await waker.wake()
    assert [head.split()[1] for head in app.asked] == [
        "/agents/chat/run-gateway-wake",
        "/agents/chat/run-gateway-wake/abort",
    ]
    assert all("authorization: Bearer x\r\n" in head for head in app.asked)
    assert waker.woken == 1


async def test_an_app_that_took_the_message_is_not_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(202, 200) as app:
        waker = app.waker()
        assert [await waker.wake(), await waker.wake()] == [False, False]
    assert len(app.asked) == 2
    assert "answered 202 and 200" in caplog.text


async def test_an_app_that_asks_for_credentials_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(401, 401, 401) as app:
        waker = app.waker()
        assert not await waker.wake()
        assert not await waker.touch("x")
    assert caplog.text.count("GATEWAY_FLUE_AUTHORIZATION") == 2


async def test_an_app_that_is_away_is_no_error() -> None:
    async with serving() as app:
        pass
    assert [await app.waker().wake(), await app.waker().touch("x")] == [False, False]


async def test_an_instance_that_never_was_is_touched() -> None:
    async with serving(404) as app:
        assert await app.waker().touch("run-gateway-1")
    assert app.asked[0].split()[1] == "/agents/chat/run-gateway-1"
