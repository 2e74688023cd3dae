"""Catch-up in the coding that its reader takes (RFC 9110 §8.4, §12.5.3): compressed once, and the very bytes inside."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from collections.abc import Sequence

import httpx
import pytest
import zstandard

from gateway.http import codings
from gateway.http.codings import MOST_KEPT, MOST_WAITING, OFFERED, SMALLEST, Bodies
from tests.http.answers import JSON, at
from tests.servers import Client, Running, body_of

TOKENS = [{"type": "token", "text": f"word {number}", "id": "message-1"} for number in range(100)]  # 5,590 bytes
IN = {"zstd": lambda body: zstandard.ZstdDecompressor().decompress(body), "gzip": gzip.decompress}


async def made(client: Client, path: str, events: Sequence[object] = TOKENS, **headers: str) -> None:
    await client("PUT", path, headers=JSON | headers, content=json.dumps(events))


async def read(gateway: Running, path: str, accept: str, *more: str) -> tuple[httpx.Headers, bytes]:
    """Headers and bytes of an answer, as they are on the wire."""
    raw = await gateway.get_raw(path, f"Accept-Encoding: {accept}", *more)
    lines = raw.partition(b"\r\n\r\n")[0].split(b"\r\n")
    pairs = [line.partition(b": ")[::2] for line in lines[1:]]
    return httpx.Headers([(b":status", lines[0].split()[1]), *pairs]), body_of(raw)


@pytest.mark.parametrize("coding", IN)
async def test_a_page_comes_in_the_coding_that_is_asked_for(
    gateway: Running, client: Client, path: str, coding: str
) -> None:
    await made(client, path)
    plain, body = await read(gateway, path, "identity")
    headers, compressed = await read(gateway, path, coding)
    assert IN[coding](compressed) == body
    assert len(compressed) < len(body) / 5
    assert headers["content-encoding"] == coding
    assert headers["content-length"] == str(len(compressed))
    assert headers["etag"] == plain["etag"][:-1] + f':{coding}"'
    assert "content-encoding" not in plain
    same = {"content-type", "stream-next-offset", "stream-up-to-date", "cache-control", "vary"}
    assert {name: headers[name] for name in same} == {name: plain[name] for name in same}
    assert "accept-encoding" in plain["vary"]


async def test_zstd_goes_before_gzip_where_both_will_do(gateway: Running, client: Client, path: str) -> None:
    await made(client, path)
    headers, _ = await read(gateway, path, "gzip, deflate, br, zstd")  # as Chrome has it
    assert headers["content-encoding"] == "zstd"


async def test_a_form_that_the_client_has_is_not_sent_again(gateway: Running, client: Client, path: str) -> None:
    await made(client, path)
    tags = {accept: (await read(gateway, path, accept))[0]["etag"] for accept in ("identity", "gzip", "zstd")}
    assert len(set(tags.values())) == 3
    for held in ("gzip", "identity"):
        headers, body = await read(gateway, path, "gzip", f"If-None-Match: {tags[held]}")
        assert (headers[":status"], body, headers["etag"]) == ("304", b"", tags[held])
        assert ("accept-encoding" in headers["vary"], headers["cache-control"]) == (True, "private, no-cache")
    for accept in ("identity", "zstd"):  # it cannot be told to go on with what it does not take
        headers, body = await read(gateway, path, accept, f"If-None-Match: {tags['gzip']}")
        assert (headers[":status"], headers["etag"]) == ("200", tags[accept])
    await client("POST", path, headers={"Stream-Closed": "true"})
    headers, _ = await read(gateway, path, "gzip", f"If-None-Match: {tags['gzip']}")
    assert (headers[":status"], headers["stream-closed"]) == ("200", "true")


async def test_little_and_what_gets_no_smaller_is_sent_as_it_is(gateway: Running, client: Client, path: str) -> None:
    await made(client, path, ["x" * (SMALLEST - 3)])
    await client("PUT", path + "b", headers={"Content-Type": "image/png"}, content=os.urandom(5_000))
    for where, length in ((path, SMALLEST + 1), (path + "b", 5_000)):
        headers, body = await read(gateway, where, "gzip")
        assert ("content-encoding" in headers, len(body)) == (False, length)


async def test_all_pages_of_a_run_are_its_very_bytes(gateway: Running, client: Client, path: str) -> None:
    events = TOKENS * 6
    await made(client, path, events)
    found, offset, pages = list[object](), "-1", 0
    while offset != at(len(events)):
        headers, body = await read(gateway, f"{path}?offset={offset}", "gzip")
        found += json.loads(gzip.decompress(body))
        offset = headers["stream-next-offset"]
        pages += 1
    assert (found, pages > 2) == (events, True)


async def test_folded_events_are_compressed_apart_from_all(gateway: Running, client: Client, path: str) -> None:
    await made(client, path, TOKENS)
    for query, count in (("?offset=-1", 100), ("?offset=-1&fold=type,id:text", 1), ("?offset=-1", 100)):
        _, body = await read(gateway, path + query, "gzip")
        assert len(json.loads(gzip.decompress(body))) == count


async def test_live_reads_and_head_are_never_compressed(gateway: Running, client: Client, path: str) -> None:
    await made(client, path, **{"Stream-Closed": "true"})
    for query in ("?offset=-1&live=long-poll", "?offset=-1&live=sse"):
        headers, body = await read(gateway, path + query, "gzip")
        assert ("content-encoding" in headers, b"word 99" in body) == (False, True)
    head = await gateway.get_raw(path, "Accept-Encoding: gzip", method="HEAD")
    assert b"content-encoding" not in head.lower()


async def test_a_page_is_compressed_once_for_all_its_readers(gateway: Running, client: Client, path: str) -> None:
    bodies = gateway.app._streams.reading._compressed
    await made(client, path)
    before = bodies.made
    answers = await asyncio.gather(*(read(gateway, path, "gzip") for _ in range(20)))
    assert len({body for _, body in answers}) == 1
    await read(gateway, path, "gzip")
    assert bodies.made == before + 1
    await client("POST", path, headers=JSON, content='["more"]')
    _, body = await read(gateway, path, "gzip")
    assert json.loads(gzip.decompress(body))[-1] == "more"
    assert bodies.made == before + 2


async def test_a_fold_that_cannot_be_is_refused_in_every_form(gateway: Running, client: Client, path: str) -> None:
    await client("PUT", path, headers={"Content-Type": "text/plain"}, content=b"x" * 3_000)
    headers, _ = await read(gateway, f"{path}?fold=a:b", "gzip")
    assert headers[":status"] == "400"
    headers, _ = await read(gateway, path, "gzip")
    assert headers["content-encoding"] == "gzip"


def making(*parts: bytes) -> codings.Make:
    async def make() -> Sequence[bytes]:
        return parts

    return make


async def test_no_more_bodies_are_kept_than_fit() -> None:
    bodies = Bodies(3_000)
    noise = [os.urandom(500).hex().encode() for _ in range(9)]  # 1,000 bytes each, half as many when compressed
    for number, text in enumerate(noise):
        await bodies(number, b"gzip", making(text))
        assert 0 < bodies.bytes <= 3_000
    assert bodies.made == 9
    await bodies(8, b"gzip", making())
    assert bodies.made == 9, "the last is kept"
    await bodies(0, b"gzip", making(noise[0]))
    assert bodies.made == 10, "the first is not"
    await bodies("large", b"gzip", making(os.urandom(4_000).hex().encode()))
    assert bodies.bytes <= 3_000
    await bodies(0, b"gzip", making())
    assert bodies.made == 11, "one that would take all the room takes none"
    for number in range(2 * MOST_KEPT):
        await bodies(("small", number), b"gzip", making(b"x"))
    assert len(bodies._kept) == MOST_KEPT


async def test_beyond_those_that_wait_readers_do_not() -> None:
    bodies, go_on = Bodies(1 << 20), asyncio.Event()

    async def slow() -> Sequence[bytes]:
        await go_on.wait()
        return [b"x" * 100]

    waiting = [asyncio.ensure_future(bodies(number, b"gzip", slow)) for number in range(MOST_WAITING)]
    await asyncio.sleep(0)
    assert await bodies("one more", b"gzip", slow) is None
    joined = asyncio.ensure_future(bodies(0, b"gzip", making(b"never made")))
    gone = asyncio.ensure_future(bodies(1, b"gzip", slow))
    await asyncio.sleep(0)
    gone.cancel()
    go_on.set()
    assert {gzip.decompress(body or b"") for body in await asyncio.gather(*waiting, joined)} == {b"x" * 100}
    assert bodies.made == MOST_WAITING


async def test_what_cannot_be_made_leaves_nothing_behind() -> None:
    bodies = Bodies(1 << 20)

    async def refused() -> Sequence[bytes]:
        raise ValueError("not this")

    with pytest.raises(ValueError, match="not this"):
        await bodies("a", b"gzip", refused)
    assert await bodies("a", b"gzip", making(b"x" * 100)) is not None


def test_gzip_is_always_offered_and_zstd_first_where_it_is_there() -> None:
    assert OFFERED == (b"zstd", b"gzip")
