"""Rows 6, 10 and 11: what is dear in the log, asked for again and again."""

from __future__ import annotations

from itertools import count

from loadtests.siege.attacks.assault import Assault

DEPTH = 120  # more than a chain of forks may have
BROOD = 400
TTL = "2"  # seconds
LISTS = 24
NESTED = 10_000_000  # bytes
STORED = 12  # of those bodies that are in order: each is in the log afterwards

_URL = "/v1/stream/"


async def chain_forks(assault: Assault) -> None:
    """Forks of forks of forks, all of which expire at once; the last is read."""
    line, numbers = assault.line(), count()

    async def chain(_: int) -> None:
        name = f"{_URL}chain-{next(numbers)}"
        await line.ask("PUT", f"{name}-0", b"[1,2,3]", stream_ttl=TTL)
        for depth in range(1, DEPTH):
            made = await line.ask(
                "PUT", f"{name}-{depth}", scope="read,write", stream_forked_from=f"{name}-{depth - 1}", stream_ttl=TTL
            )
            if made != 201:
                break
            await line.ask("GET", f"{name}-{depth}?offset=-1", scope="read")

    await assault.many(1, chain)


async def fork_many(assault: Assault) -> None:
    """Many forks of one stream, each in the middle of an event, so that bytes are copied."""
    line, numbers = assault.line(), count()

    async def brood(_: int) -> None:
        source = f"{_URL}brood-{next(numbers)}"
        await line.ask("PUT", source, b"x" * 100_000, content_type="text/plain", stream_ttl=TTL)
        for number in range(BROOD):
            await line.ask(
                "PUT", f"{source}-{number}", scope="read,write", content_type="text/plain", stream_ttl=TTL,
                stream_forked_from=source, stream_fork_offset="0000000000000000_0000000000000000",
                stream_fork_sub_offset="90000",
            )  # fmt: skip

    await assault.many(1, brood)


async def nest(assault: Assault) -> None:
    """Bodies of objects in objects, not compact. Most are wrong at their very end: all work is in vain."""
    element = b'{"a":[' + b",".join([b"{}"] * 200) + b", {} ]}"
    body = b"[ " + b", ".join([element] * (NESTED // (len(element) + 2) - 1))
    lines = [assault.line() for _ in range(2)]
    await lines[0].ask("PUT", "/runs/nested")
    stored = count()

    async def post(number: int) -> None:
        good = not number and next(stored) < STORED
        await lines[number].ask("POST", "/runs/nested", body + (b" ]" if good else b", }"))
        await assault.rest(0.1)

    await assault.many(2, post)


async def find_nothing(assault: Assault) -> None:
    """Lists of all runs, of which none is what is looked for."""
    lines = [assault.line() for _ in range(LISTS)]

    async def ask(number: int) -> None:
        status = await lines[number].ask("GET", f"/runs?metadata.user=nobody&metadata.n={number}", scope="read")
        if status == 503:
            await assault.rest(0.1)  # much sooner than it was told

    await assault.many(LISTS, ask)
