"""What a request made is freed with it, and not by a later look for rings: that look holds up the loop, and until it
comes, memory adds up.
"""

from __future__ import annotations

import asyncio
import gc
import types
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

import httpx
import pytest

import gateway as house
from gateway.wire.slim import Cycle
from tests.hardening.test_every_way import RUN, WAYS, Way, a_run, limited
from tests.servers import Running, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

HOUSE = str(Path(house.__file__).parent)


@contextmanager
def looking() -> Iterator[Callable[[], Counter[str]]]:
    """In the block, gives what of ours can only be found by a look for rings, since the last time."""

    def look() -> Counter[str]:
        gc.collect()
        found = Counter(filter(None, map(_of_the_house, gc.garbage)))
        gc.garbage.clear()
        gc.freeze()  # what is there, the rings among it, is not looked at again
        return found

    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        look()
        yield look
    finally:
        gc.set_debug(0)
        gc.enable()


def _of_the_house(thing: object) -> str | None:
    if isinstance(thing, types.FrameType):
        return f"a frame of {thing.f_code.co_qualname}" if thing.f_code.co_filename.startswith(HOUSE) else None
    if isinstance(thing, types.FunctionType | type):
        return None  # the way in which libraries make classes
    kind = type(thing)
    return kind.__qualname__ if kind.__module__.startswith("gateway.") or kind is Cycle else None


async def ask(http: httpx.AsyncClient, way: Way, name: str, content: bytes) -> None:
    """Whatever is answered. A read that would last is left."""
    with suppress(httpx.HTTPError, TimeoutError):
        async with asyncio.timeout(0.1 if "live" in way.marks else None):
            target = way.target(name)
            await http.request(way.method, target, content=content if "body" in way.marks else None)


READ: Final = [
    *[f"{{path}}?offset=now&{how}" for how in ("live=sse", "live=sse&fold=type:text", "live=long-poll")],
    "{path}?meta&wait=60",
    "/v1/stream?live=sse&stream={stream}",
    "/v1/stream?live=sse&status=active",
    "/runs?live=sse",
]
"""What is read while it is deleted, or ended."""


@asynccontextmanager
async def read_on(gateway: Running, target: str) -> AsyncIterator[None]:
    """Somebody reads this run, or stream, in every way, and has left before the block's end is over."""
    stream = target.removeprefix("/v1/stream").removeprefix("/")
    async with AsyncExitStack() as stack:
        for way in READ:
            if "meta" in way and not target.startswith("/runs"):
                continue
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            stack.push_async_callback(gone, writer)
            writer.write(f"GET {way.format(path=target, stream=stream)} HTTP/1.1\r\nhost: h\r\n\r\n".encode())
            if "sse" in way:
                await reader.readuntil(b"\r\n\r\n")
        yield


async def gone(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@pytest.mark.parametrize("content", [b"[1]", b"{", b'{"type":"pull-wake","pattern":"a","wake_stream":"b"}'])
async def test_no_request_leaves_a_ring_behind(database_url: str, content: bytes) -> None:
    ways = [way for way in WAYS if way.method != "DELETE"]
    left = []
    with limited(database_url) as gateway:
        async with a_run(gateway) as http:
            for way in ways:
                await ask(http, way, RUN, content)
            with looking() as look:
                for number, way in enumerate(ways):
                    for name in (RUN, f"missing-{number}", "a%00"):
                        await ask(http, way, name, content)
                    await until(lambda: not gateway.server.server_state.connections)
                    left += [(str(way), found) for found in (look(),) if found]
    assert left == []


@pytest.mark.parametrize("way", [way for way in WAYS if way.method == "DELETE"], ids=str)
async def test_no_deletion_leaves_a_ring_behind(database_url: str, way: Way) -> None:
    """Neither what was deleted, with readers of all kinds and with none, nor what is not there, or is no name."""
    left = []
    with limited(database_url) as gateway:
        async with a_run(gateway) as http:
            made = way.target().partition("/streams/")[0]
            wanted = b'{"type":"pull-wake","streams":["run"],"wake_stream":"b"}'
            await http.put("/v1/stream/b")
            with looking() as look:
                for readers in (False, False, True, True):
                    assert (await http.put(made, content=wanted if "subscriptions" in made else b"[1]")).is_success
                    await until(lambda: not gateway.server.server_state.connections)
                    async with read_on(gateway, made) if readers else AsyncExitStack():
                        look()
                        answer = await http.delete(way.target())
                        assert answer.is_success, answer.text
                    for name in ("missing", "a%00"):
                        await ask(http, way, name, b"")
                    await until(lambda: not gateway.server.server_state.connections)
                    left += [(readers, found) for found in (look(),) if found]
    assert left == []
