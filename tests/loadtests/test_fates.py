"""Writers whose runs take another course: what a gateway rightly tells them is no violation."""

from __future__ import annotations

import asyncio
import json
import random

import httpx

from loadtests.survival.calm import Calm
from loadtests.survival.clients import Seen
from loadtests.survival.fates import Dying
from loadtests.survival.lagging import Resuming, Returning
from loadtests.survival.ledger import INVENTED, LOST, Read, judge_readers


async def test_a_promise_with_a_lost_answer_may_break_when_repeated() -> None:
    """The gateway has heard it, ended the run after its lease, and says so to the second try."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if len(asked) == 1:
            raise httpx.ReadTimeout("half-open", request=request)
        return httpx.Response(403, request=request)

    seen = Seen()
    async with asyncio.timeout(60), httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        writer = Dying(http, ["http://a", "http://b"], "/runs/r", random.Random(1), seen, 0.0, retried=True)
        await writer.write()
    assert (asked, seen.wrong) == (["/runs/r/heartbeat"] * 2, [])


RUN = "/runs/r"


def events(*numbers: int) -> bytes:
    return json.dumps([{"run": RUN, "n": n} for n in numbers]).encode()


async def read_past_what_was_lost(*, told: bool) -> tuple[Read, Seen]:
    """Event 2 is lost, and 5 and 6 come in its place; a log that keeps silent goes on for who had 2."""
    after = [("0_3", 410, b"", "0_2"), ("0_2", 200, events(5, 6), "1_4")] if told else [("0_3", 200, events(6), "0_4")]
    script = [("-1", 200, events(0, 1), "0_2"), ("0_2", 200, events(2), "0_3"), *after]

    def answer(request: httpx.Request) -> httpx.Response:
        asked, status, body, offset = script.pop(0)
        assert request.url.params["offset"] == asked
        headers = {"stream-next-offset": offset} | ({} if script else {"stream-closed": "true"})
        return httpx.Response(status, content=body, headers=headers, request=request)

    seen = Seen()
    async with asyncio.timeout(60), httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        run = Resuming(Calm(), http, ["http://a"], RUN, random.Random(1), seen, 0.0, retried=True)
        run.account.ending = True
        reader = Returning(http, ["http://a"], run, random.Random(1), seen, "catch-up")
        await reader.run()
    return reader.account, seen


async def test_a_reader_told_of_a_lost_future_goes_back() -> None:
    account, seen = await read_past_what_was_lost(told=True)
    assert (account.given, account.places) == ([0, 1, 5, 6], [("0_2", 2), ("1_4", 4)])
    assert (seen.told, seen.wrong) == (1, [])


async def test_others_in_place_of_what_was_lost_are_found() -> None:
    account, _ = await read_past_what_was_lost(told=False)
    log = Read("catch-up", [0, 1, 5, 6], [("0_4", 4)], ended=True)
    assert judge_readers(RUN, log, [account]).counts.keys() == {LOST, INVENTED}


async def test_a_producer_told_of_a_lost_future_goes_on_from_it() -> None:
    claims: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(
                200, content=events(0, 1), headers={"stream-next-offset": "2", "stream-up-to-date": ""}
            )
        claims.append((request.headers["producer-epoch"], request.headers["producer-seq"]))
        if len(claims) == 1:
            return httpx.Response(409, json={"error": {"type": "producer_sequence_gap"}})
        return httpx.Response(204)

    seen = Seen()
    async with asyncio.timeout(60), httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        writer = Resuming(Calm(), http, ["http://a"], RUN, random.Random(1), seen, 0.0, retried=True)
        writer.account.hands[0] += [0, 1, 2]
        writer._seq = 3
        await writer.write()
    assert (claims, writer.account.hands) == ([("0", "3"), ("1", "0")], [[0, 1]])
    assert (seen.rewound, seen.forgotten, seen.wrong) == (1, 1, [])
