"""Text as producers cut it, anywhere: live and late readers, on both Machines, are shown the same."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from uuid import uuid4

import pytest
import pytest_asyncio

from tests.databases import Postgres
from tests.event_source import Reading
from tests.servers import Client, Follow, Running, client_of, following, serving

TEXT = {"content-type": "text/plain"}
CUT = [  # an append, and what is shown with it
    (b"a\xf0", "a"),
    (b"\x9f", ""),
    (b"\x98\x80\r", "😀\n"),
    (b"\n", ""),
    (b"10%\r", "10%\n"),
    (b"20%\r", "20%\n"),
    (b"\r\n", "\n"),
    (b"\xe2\x82", ""),
    (b"\xacb\xff", "€b\ufffd"),
    (b"\xc3", ""),
    (b"c\xc3", "\ufffdc"),  # what is never finished is not shown
]
PIECES = [piece for piece, _ in CUT]
SHOWN = [text for _, text in CUT]


@pytest.fixture(scope="module")
def machines(database: str) -> Iterator[tuple[Running, Running]]:
    with ExitStack() as stack:
        yield (stack.enter_context(serving(database, "direct")), stack.enter_context(serving(database, "asgi")))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def database(postgres: Postgres) -> AsyncIterator[str]:
    async with postgres.database() as url:
        yield url


@pytest_asyncio.fixture
async def clients(machines: tuple[Running, Running]) -> AsyncIterator[tuple[Client, Client]]:
    async with client_of(machines[0]) as here, client_of(machines[1]) as there:
        yield here, there


def shown(reading: Reading) -> list[str]:
    return [event.data for event in reading.events if event.type == "data"]


async def test_text_is_shown_alike_however_it_is_cut(clients: tuple[Client, Client]) -> None:
    path = f"/runs/{uuid4().hex}"
    await clients[0]("PUT", path, headers=TEXT)
    offsets = ["-1"]
    readers: list[Follow] = []  # two who begin at each offset, as soon as it is there
    async with AsyncExitStack() as stack:
        for n, piece in enumerate(PIECES):
            for client in clients:
                target = f"{path}?offset={offsets[-1]}&live=sse"
                readers.append(await stack.enter_async_context(following(client, target)))
            answer = await clients[n % 2]("POST", path, headers=TEXT, content=piece)
            offsets.append(answer.headers["stream-next-offset"])
            for reader in readers[:2]:
                seen = await reader.until(lambda reading: reading.last_event_id == offsets[-1])
                assert shown(seen) == [text for text in SHOWN[: n + 1] if text]
        await clients[0]("POST", path, headers=TEXT | {"stream-closed": "true"})
        for n, reader in enumerate(readers):
            assert "".join(shown(await reader.end())) == "".join(SHOWN[n // 2 :])
    for n, offset in enumerate(offsets):  # late ones
        async with following(clients[n % 2], f"{path}?offset={offset}&live=sse") as reader:
            assert "".join(shown(await reader.end())) == "".join(SHOWN[n:])
    assert (await clients[1]("GET", path)).content == b"".join(PIECES)


async def test_text_that_is_not_utf8_reaches_readers_as_base64(clients: tuple[Client, Client]) -> None:
    path, latin = f"/runs/{uuid4().hex}", {"content-type": "text/plain; charset=iso-8859-1"}
    await clients[0]("PUT", path, headers=latin, content=b"caf\xe9")
    await clients[0]("POST", path, headers=latin | {"stream-closed": "true"})
    async with following(clients[1], f"{path}?offset=-1&live=sse") as reader:
        assert reader.response.headers["stream-sse-data-encoding"] == "base64"
        assert [b64decode(text) for text in shown(await reader.end())] == [b"caf\xe9"]
