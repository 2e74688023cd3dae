"""The ids of conversations are those that the app itself finds, whatever is in a path."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from gateway.owner.flue.ids import id_of
from tests.flue2.house import House
from tests.flue2.rig import MOUNT

pytestmark = pytest.mark.asyncio(loop_scope="package")
EXAMPLES = 300
PIECES = [
    *("a", "b", ".", "..", "/", "//", "\\", "+", ";", "#", "é", "{", "|", '"', "^", "~", "%", "%2", "%ZZ", "%25"),
    *("%2F", "%2f", "%5C", "%3F", "%23", "%40", "%2E", "%2e%2E", "%41", "%0A", "%20", "%7B", "%FF"),
    *("%C3", "%A9", "%E4%BD%A0", "%ED%A0%80", "%F0%9F%98%80", "%C0%AF", "%E2%80%A8", "abort", "%61bort"),
]  # fmt: skip


def drawn(count: int) -> Iterator[bytes]:
    """Paths, the same ones each time."""
    yield from (f"{MOUNT}/{piece}".encode("latin-1") for piece in PIECES)

    chance = random.Random(7)
    for _ in range(count):
        yield f"{MOUNT}/{''.join(chance.choices(PIECES, k=chance.randint(2, 6)))}".encode("latin-1")


async def found(url: str, path: bytes) -> str | None:
    """What the app says the path's stream is; None where it has no such route, or takes no such path."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        body = (await reader.read()).partition(b"\r\n\r\n")[2]
    finally:
        writer.close()
    named = re.fullmatch('Event stream "agents/Chat/(.*)" was not found\\.', _message(body), re.DOTALL)
    return None if named is None else named[1]


def _message(body: bytes) -> str:
    return str(json.loads(body)["error"]["message"]) if body.startswith(b"{") else ""


async def test_an_id_is_the_one_that_the_app_finds(house: House) -> None:
    compared = 0
    for path in drawn(EXAMPLES):
        flues = await found(house.machines[0].app.url, path)
        if flues is not None:
            assert id_of(MOUNT, path) == flues, path
            compared += 1
    assert compared > EXAMPLES / 4
