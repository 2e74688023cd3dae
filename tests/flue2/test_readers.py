"""Readers that are answered from rows get what the app itself answers, byte for byte. The last Machine answers so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from uuid import uuid4

import httpx
import pytest

from tests.flue.conversations.recorded import NAMES, recording
from tests.flue2.house import House, Pair
from tests.flue2.rig import MOUNT

pytestmark = pytest.mark.asyncio(loop_scope="package")
PREFIXES = 16  # conversations, each as it was in the middle of what was recorded
# What says how long a body is, and when and by which connection it came.
PASSING = {"content-length", "transfer-encoding", "connection", "keep-alive", "date"}
NEVER = "0000000000000000_0000000000009999"
QUERIES = [
    *("", "?view=history", "?view=updates&offset=-1", f"?view=updates&offset={NEVER}", "?view=updates", "?view=foo"),
    *("?offset=-1", "?view=updates&offset=now", "?view=updates&offset=0_5", "?view=updates&offset=-1&tail=2"),
    *("?view=updates&offset=-1&offset=-1", "?view=updates&offset=-1&live=foo", "?view=updates&offset=-1&cursor=7"),
    *("?view=updates&offset=-1&live=long-poll", "?view=updates&offset=0000000000000000_0000000000000003"),
]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


async def get(http: httpx.AsyncClient, url: str, **headers: str) -> Answer:
    """An answer; of one that goes on, what comes until it says that it is up to date."""
    async with http.stream("GET", url, headers=headers) as response:
        body = b""
        async for piece in response.aiter_raw():
            body += piece
            if b'"upToDate":true}\n\n' in body:
                break
    kept = {name: value for name, value in response.headers.items() if name not in PASSING | {"flue-error-ref"}}
    if response.status_code >= 500:
        body = json.dumps({**json.loads(body)["error"], "ref": None}).encode()
    return Answer(response.status_code, kept, body)


async def seed(house: House, batches: list[str]) -> str:
    """A conversation of the app's with these batches. Its id."""
    id, incarnation = uuid4().hex, f"inc_{uuid4().hex[:26].upper()}"
    async with house.database.transaction():
        await house.database.execute(
            "INSERT INTO flue_conversation_streams (path, identity_json, next_offset, incarnation)"
            " VALUES ('agents/Chat/' || $1, $2, $3, $4)",
            *(
                id,
                json.dumps({"agentName": "Chat", "instanceId": id}, separators=(",", ":")),
                len(batches),
                incarnation,
            ),
        )
        await house.database.executemany(
            "INSERT INTO flue_conversation_stream_batches"
            " (path, seq, producer_id, producer_epoch, producer_sequence, data)"
            " VALUES ('agents/Chat/' || $1, $2, 'owner_test', 1, $2, $3)",
            [(id, at, batch) for at, batch in enumerate(batches)],
        )
    return id


async def by_rows(pair: Pair) -> float:
    return await pair.metric('flue_reads_total{by="rows"')


async def until_known(http: httpx.AsyncClient, pair: Pair, id: str, **headers: str) -> int:
    """Asks for a conversation until rows answer, as they do soon after the app has. How often it was asked for."""
    before, asked = await by_rows(pair), 0
    async with asyncio.timeout(60):
        while await by_rows(pair) == before:
            await get(http, pair.url(id), **headers)
            asked += 1
    return asked


async def until_counted(pair: Pair, reads: float) -> None:
    """Waits until rows have answered so many."""
    async with asyncio.timeout(60):
        while await by_rows(pair) != reads:  # noqa: ASYNC110  it is asked
            await asyncio.sleep(0.05)


def drawn() -> Iterator[tuple[str, int]]:
    """Recordings, and how many of their batches there are: evenly from all."""
    every = [(name, end) for name in NAMES for end in range(1, len(recording(name).batches))]
    yield from every[:: max(1, len(every) // PREFIXES)]
    yield from ((name, len(recording(name).batches)) for name in NAMES)


async def test_rows_are_shown_as_the_app_shows_them(house: House) -> None:
    """At any moment of what was recorded: with steps, tools and reasoning in progress, too."""
    reading = house.machines[-1]
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        for name, end in drawn():
            id = await seed(house, recording(name).batches[:end])
            middle = f"{0:016}_{end // 2:016}"
            queries = ["", "?view=updates&offset=-1", f"?view=updates&offset={middle}"]
            queries += [f"{query}&live=sse" for query in queries[1:]]
            await until_known(http, reading, id)
            before = await by_rows(reading)
            for query in queries:
                flues = await get(http, f"{reading.app.url}{MOUNT}/{id}{query}")
                assert await get(http, f"{reading.url(id)}{query}") == flues, (name, end, query)
                assert flues.status == 200
            await until_counted(reading, before + len(queries))


async def test_a_long_conversation_is_shown_page_by_page(house: House) -> None:
    """A page is 100 batches, of which some show nothing."""
    reading, batches = house.machines[-1], recording("rich").batches
    steps = [
        json.dumps([{**json.loads(batches[0])[0], "id": f"record_{at}", "type": "state_write"}], separators=(",", ":"))
        for at in range(140)
    ]
    id = await seed(house, [*batches, *steps])
    url, direct = reading.url(id), f"{reading.app.url}{MOUNT}/{id}"
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        await until_known(http, reading, id)
        before = await by_rows(reading)
        for at in ("-1", *(f"{0:016}_{seq:016}" for seq in (0, 40, 99, 100, 123, 124, 125, 223, 224))):
            for live in ("", "&live=sse", "&live=long-poll")[: 2 if at.endswith("224") else 3]:
                query = f"?view=updates&offset={at}{live}"
                assert await get(http, url + query) == await get(http, direct + query), query
        await until_counted(reading, before + 29)


async def test_all_else_is_answered_by_the_app(house: House) -> None:
    reading = house.machines[-1]
    id = await seed(house, recording("chat").batches)
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        for _ in range(2):  # before it has answered, and after
            for each in (id, "unknown", "a%2Fb", "..", "a/b", f"{id}/abort"):
                for query in QUERIES:
                    flues = await get(http, f"{reading.app.url}{MOUNT}/{each}{query}")
                    assert await get(http, reading.url(each) + query) == flues, (each, query)


async def test_only_whom_the_app_has_answered_is_answered_from_rows(house: House) -> None:
    reading = house.machines[-1]
    id = await seed(house, recording("chat").batches)
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        asked = [await until_known(http, reading, id, authorization=f"Bearer {who}") for who in "aabba"]
        assert [times > 1 for times in asked] == [True, False, True, False, False]
