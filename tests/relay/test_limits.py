"""What one client can have of a Machine by the relay is bounded, also once it has left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import pytest_asyncio

from gateway.protocol.target import within
from gateway.relay.store import New, Store
from tests.databases import Postgres
from tests.relay.agent import Call
from tests.relay.client import answer, asking
from tests.relay.houses import House, house_of
from tests.servers import PATIENCE, until

MOST = 3
FRAME = b'data: {"n":1}\n\n'
BACKGROUND = {"stream": True, "background": True}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(postgres: Postgres) -> AsyncIterator[House]:
    relay = "ai-sdk:/api/chat,sse:/any"
    async with house_of(postgres, relay=relay, relay_max_recordings=MOST, max_readers=MOST) as house:
        yield house


async def post(house: House, id: str) -> int:
    return (await answer(house.one.url, "POST", "/api/chat", body={"id": id})).status


async def accepted(house: House, id: str) -> Call:
    """A POST that is recorded as soon as there is a place."""
    while True:
        async with asking(house.one.url, "POST", "/api/chat", body={"id": id}) as response:
            taken = asyncio.ensure_future(house.agent.call())
            refused = asyncio.ensure_future(response.begun())
            await asyncio.wait((taken, refused), return_when=asyncio.FIRST_COMPLETED)
            refused.cancel()
            if response.status != 503:
                return await taken
            taken.cancel()


async def test_clients_that_leave_keep_their_places(house: House) -> None:
    calls = []
    for number in range(MOST):
        async with asking(house.one.url, "POST", "/api/chat", body={"id": f"left-{number}"}):
            calls.append(await house.agent.call())  # and the client leaves, before there is an answer
    asked = len(house.agent.calls)
    refused = await answer(house.one.url, "POST", "/api/chat", body={"id": "one more"})
    assert (refused.status, b"too_many_recordings" in refused.body) == (503, True)
    assert len(house.agent.calls) == asked
    assert (await answer(house.one.url, "GET", "/api/chat/one%20more/stream")).status == 204, "nothing was claimed"
    await calls[0].answer(500, b"no")  # not recorded: its place is free
    calls[0] = await accepted(house, "in its place")
    await calls[0].begin()
    await calls[0].say(FRAME)
    await calls[0].end()  # recorded to its end: so is that one
    calls[0] = await accepted(house, "and once more")
    assert await post(house, "still full") == 503
    for call in calls:
        call.cut()
    last = await accepted(house, "all are free")
    await last.answer(200, b"ok")


@pytest.mark.parametrize("headers", [None, {"content-type": "text/event-stream"}], ids=["no head", "no frame"])
async def test_what_is_never_answered_gives_its_place_back(postgres: Postgres, headers: dict[str, str] | None) -> None:
    async with house_of(
        postgres, relay="openai-responses:/v1", relay_max_recordings=1, relay_max_duration=0.2
    ) as house:
        async with asking(house.one.url, "POST", "/v1", body=BACKGROUND) as response:
            call = await house.agent.call()
            if headers is not None:
                await call.begin(headers=headers)
            await response.begun()
            assert response.status == 502
            await call.left()
        async with asking(house.one.url, "POST", "/v1", body=BACKGROUND):
            await house.agent.call()  # there is a place for it


async def test_who_waits_for_the_first_answer_is_a_reader(house: House) -> None:
    readers = house.one.app._limits.readers
    assert house.one.app._application.relay is not None
    returns = house.one.app._application.relay._returns
    async with asking(house.other.url, "POST", "/any", {"x-run-id": "slow"}, {}) as first:
        call = await house.agent.call()
        waiting = [asyncio.ensure_future(_wait(house, number)) for number in range(MOST)]
        await until(lambda: readers.sse.count == MOST)
        assert len(returns._looking) == 1
        assert (await answer(house.one.url, "GET", "/any/slow")).status == 503  # no room for one more
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        await until(lambda: readers.sse.count == 0)  # they have left, and nothing has been answered
        await call.begin()
        await call.say(FRAME)
        await call.end()
        await first.ended()
    await until(lambda: not returns._looking)
    assert (await answer(house.one.url, "GET", "/any/slow")).status == 200


async def _wait(house: House, number: int) -> None:
    async with asking(house.one.url, "GET", f"/any/slow?n={number}") as response, asyncio.timeout(PATIENCE):
        await response.ended()


class Counted:
    """A database that notes for whom it is asked, and has nothing."""

    def __init__(self) -> None:
        self.tenants: list[str | None] = []

    @asynccontextmanager
    async def acquire(self, tenant: str | None = None) -> AsyncIterator[Counted]:
        self.tenants.append(tenant)
        yield self

    async def fetchval(self, *_: object) -> int:
        return 1

    async def fetchrow(self, statement: str, *_: object) -> dict[str, Any] | None:
        return {"path": "x", "stream": 1} if "claim" in statement else None


async def test_what_a_client_has_asked_waits_in_its_tenants_line() -> None:
    database = Counted()
    store = Store(cast("Any", database), machine="m")
    path = within("acme", "runs/r")
    new = New(path, "row", "text/event-stream", 10, None, None)
    await store.begin(new, [])
    await store.claim(b"key", new, attach=True, grace=None)
    await store.find("acme", b"key", None)
    await store.look(path)
    assert database.tenants == ["acme"] * 4
