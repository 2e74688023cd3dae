"""Writers whose runs take another course: what a gateway rightly tells them is no violation."""

from __future__ import annotations

import asyncio
import random

import httpx

from loadtests.survival.clients import Seen
from loadtests.survival.fates import Dying


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
