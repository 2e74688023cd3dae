"""What comes in the same instant, on however many connections: a turn of the loop begins with a few, in their order."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.asgi import Receive, Scope, Send
from gateway.wire.intake import ANSWER, LINES, PACKET, Turns
from tests.http.test_packets import Application, Connection
from tests.http.transports import Wire

GET = b"GET /runs/%d HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /runs/%d HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n1"


class Counting(Application):
    """Answers many at the same time."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.had.append((scope["path"], b""))
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def take(self, post: Any) -> bool:
        self.had.append((post.url.decode(), b""))
        self.past_asgi += 1
        post.answer(204, [])
        return True


@pytest.mark.parametrize(("request_", "cost"), [(GET, ANSWER + PACKET), (POST, PACKET)], ids=["over ASGI", "past ASGI"])
async def test_a_crowd_of_requests_is_begun_in_several_turns(request_: bytes, cost: int) -> None:
    count = 3 * (LINES // cost)
    application, wires = Counting(at_once=True), [Wire() for _ in range(count)]
    Connection.turns = Turns()
    config = Config(app=application, lifespan="off", log_config=None, http=Connection)
    config.load()
    config.app = application
    loop = asyncio.get_running_loop()
    connections = [
        Connection(config=config, server_state=ServerState(), app_state={}, _loop=loop) for _ in range(count)
    ]
    for connection, wire in zip(connections, wires, strict=True):
        connection.connection_made(wire)
    for number, connection in enumerate(connections):
        connection.data_received(request_ % number)
    begun = [0, len(application.had)]
    while any(not wire.written for wire in wires):
        await asyncio.sleep(0)
        begun.append(len(application.had))
    assert application.past_asgi == (count if request_ is POST else 0)
    assert [path for path, _ in application.had] == [f"/runs/{number}" for number in range(count)]
    assert max(after - before for before, after in pairwise(begun)) <= LINES // cost + 1
    assert Connection.arriving.held == 0
    for connection, wire in zip(connections, wires, strict=True):
        connection.connection_lost(None)
        wire.close()
