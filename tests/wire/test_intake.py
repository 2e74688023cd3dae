"""What comes in the same instant, on however many connections: a turn of the loop begins with a few, in their order."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.asgi import Receive, Scope, Send
from gateway.wire.intake import ANSWER, EACH, FIRST, LINES, PACKET, Intake, Turns
from tests.http.test_packets import Application, Connection
from tests.http.transports import Wire

GET = b"GET /runs/%d HTTP/1.1\r\nHost: h\r\n\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n"
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


class Crowd:
    """So many connections of one application, each of which sends a request in the same turn of the loop."""

    def __init__(self, requests: list[bytes]) -> None:
        self.application = Counting(at_once=True)
        self.wires = [Wire() for _ in requests]
        Connection.turns = Turns()
        config = Config(app=self.application, lifespan="off", log_config=None, http=Connection)
        config.load()
        config.app = self.application
        loop = asyncio.get_running_loop()
        self.connections = [
            Connection(config=config, server_state=ServerState(), app_state={}, _loop=loop) for _ in requests
        ]
        for connection, wire in zip(self.connections, self.wires, strict=True):
            connection.connection_made(wire)
        for connection, request in zip(self.connections, requests, strict=True):
            connection.data_received(request)

    async def answered(self) -> list[int]:
        """How many were begun by each turn, once all are answered."""
        begun = [0, len(self.application.had)]
        while any(not wire.written for wire in self.wires):
            await asyncio.sleep(0)
            begun.append(len(self.application.had))
        assert Connection.arriving.held == 0
        for connection, wire in zip(self.connections, self.wires, strict=True):
            connection.connection_lost(None)
            wire.close()
        return begun


@pytest.mark.parametrize(("request_", "cost"), [(GET, ANSWER + PACKET), (POST, PACKET)], ids=["over ASGI", "past ASGI"])
async def test_a_crowd_of_requests_is_begun_in_several_turns(request_: bytes, cost: int) -> None:
    count = 3 * (LINES // cost)
    crowd = Crowd([request_ % number for number in range(count)])
    begun = await crowd.answered()
    assert crowd.application.past_asgi == (count if request_ is POST else 0)
    assert [path for path, _ in crowd.application.had] == [f"/runs/{number}" for number in range(count)]
    assert max(after - before for before, after in pairwise(begun)) <= LINES // cost + 1


async def test_who_asks_whether_we_are_well_waits_for_no_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does the crowd wait for thousands who ask that."""
    monkeypatch.setattr(Connection, "first", (b"GET /health HTTP/1.",))
    most = LINES // (ANSWER + PACKET) + 1  # in a turn
    many = 3 * most
    crowd = Crowd([*(GET % number for number in range(many)), HEALTH])
    await crowd.answered()
    assert [path for path, _ in crowd.application.had].index("/health") <= most
    crowd = Crowd([*[HEALTH] * many, *(GET % number for number in range(many))])
    await crowd.answered()
    asked = [path == "/health" for path, _ in crowd.application.had]
    assert sum(asked[: 2 * most]) <= most + FIRST, "of a turn's answers the others have the rest"


@pytest.mark.parametrize("kinds", [("mallory",), ("mallory", None)], ids=str)
async def test_who_sends_little_waits_for_others_shares_alone(kinds: tuple[str | None, ...]) -> None:
    """Nor for what comes from those whose tenant is not known; and those who send much go on in each turn."""
    crowd = 20 * (LINES // ANSWER)
    application, wires = Counting(at_once=True), [Wire() for _ in range(crowd + 1)]
    Connection.turns = Turns()
    config = Config(app=application, lifespan="off", log_config=None, http=Connection)
    config.load()
    config.app = application
    loop = asyncio.get_running_loop()
    connections = [Connection(config=config, server_state=ServerState(), app_state={}, _loop=loop) for _ in wires]
    for number, (connection, wire) in enumerate(zip(connections, wires, strict=True)):
        connection.connection_made(wire)
        connection.is_of(kinds[number % len(kinds)])
    connections[-1].is_of("bob")
    for number, connection in enumerate(connections):
        connection.data_received(GET % number)
    begun = [len(application.had)]
    bobs = (f"/runs/{crowd}", b"")
    while bobs not in application.had:
        await asyncio.sleep(0)
        begun.append(len(application.had))
    assert len(begun) <= 4, "the turn in which all came, and the next"
    while any(not wire.written for wire in wires):
        await asyncio.sleep(0)
        begun.append(len(application.had))
    each = [after - before for before, after in pairwise(begun[3:])]
    assert max(each) <= len(kinds) * (EACH // ANSWER + 1) + 1
    assert not Connection.turns._waiting and not any(connection._behind for connection in connections)
    for connection, wire in zip(connections, wires, strict=True):
        connection.connection_lost(None)
        wire.close()


def shares(*senders: str | None) -> dict[str | None, int]:
    """What each has of a turn who has sent something in this order, a tenth of a second after the one before."""
    turns, given = Turns(), dict[str | None, int]()
    for number, sender in enumerate(senders):
        share = turns.of(sender)
        turns.renew(share, 100 + number / 10)
        given[sender] = share.left
    return given


def test_a_lone_tenant_has_all_of_a_turn_beside_new_connections() -> None:
    """Of which nobody knows yet whose they are: they come again and again, and most often are its own."""
    assert shares("ada", None, "ada", None, "ada") == {"ada": LINES, None: EACH}
    assert shares(None, None) == {None: LINES}
    assert shares("ada", "bob", None, "ada", "bob") == {"ada": EACH, "bob": EACH, None: EACH}
    assert shares("bob", *["ada"] * 20) == {"bob": LINES, "ada": LINES}, "who sends no more takes no share"


async def test_an_append_that_had_to_wait_is_known_unparsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its head has come before, on another connection."""
    await Crowd([POST % 0]).answered()
    parsed = list[bytes]()

    def parse(connection: Intake, data: bytes, lines: int = 0) -> int:
        parsed.append(data)
        return _parse(connection, data, lines)

    _parse = Intake._parse
    monkeypatch.setattr(Intake, "_parse", parse)
    many = 2 * LINES // PACKET
    crowd = Crowd([POST % number for number in range(many)])
    await crowd.answered()
    assert (crowd.application.past_asgi, len(parsed)) == (many, 0)


async def test_a_first_request_that_waits_for_its_turn_is_waited_for() -> None:
    wire = Wire()
    config = Config(app=Counting(at_once=True), lifespan="off", log_config=None, http=Connection)
    config.load()
    loop = asyncio.get_running_loop()
    connection = Connection(config=config, server_state=ServerState(), app_state={}, _loop=loop)
    connection.connection_made(wire)
    connection._provoke()
    assert not wire.written
    connection.connection_lost(None)
    wire.close()
