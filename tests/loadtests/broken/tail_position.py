"""Law 3 broken: a reader goes on from where the tail stands, and not from the end of what it was sent."""

from __future__ import annotations

from unittest.mock import patch

from gateway.cli import main
from gateway.fanout.follower import Follower
from gateway.protocol.batch import Page

begin = Follower.begin


async def begin_at_the_tail(
    follower: Follower, position: int, last_events: int | None = None, wait: float = 0.0
) -> Page:
    page = await begin(follower, position, last_events, wait)
    follower.position = follower.tail.position or page.stream.tail
    return page


patch.object(Follower, "begin", begin_at_the_tail).start()
main(prog_name="run-gateway")
