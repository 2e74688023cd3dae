"""Following one stream over SSE until it is closed, from whichever Machine answers (protocol §5.8).

The position moves only with a control event that came whole. So whatever cuts a connection, the next one
goes on where the last whole step ended: nothing is lost and nothing comes twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import httpx

from run_gateway.errors import BadAnswer, one_line
from run_gateway.retry import RETRIED, retry_after
from run_gateway.session import Session, Trouble, explain, refusal
from run_gateway.sse import Step, Steps

HEALTHY = 1.0
"""Seconds: a connection that lived so long is no failure, even if it brought nothing."""


class _Lost(Exception):
    """The connection is over; another one may do better."""

    def __init__(self, reason: str, floor: float = 0.0) -> None:
        super().__init__(reason)
        self.floor = floor


class Follower:
    """A reader of one stream: `async for step in follower`.

    `urls` are addresses of that stream; the next one is tried when one fails. `offset` is where reading goes on, `url`
    the address that gave the last step, `binary` true if its data is base64.
    """

    def __init__(self, session: Session, urls: Sequence[str], offset: str = "-1") -> None:
        if isinstance(urls, str):
            raise TypeError("urls are a list of addresses of one stream, not a str")
        self.offset = offset
        self.url = urls[0]
        self.binary = False
        self._session = session
        self._urls = list(urls)
        self._cursor: str | None = None

    async def __aiter__(self) -> AsyncGenerator[Step, None]:
        """Every step from `offset` until the stream is closed. Raises ClientError."""
        backoff, clock = self._session.backoff(), asyncio.get_running_loop().time
        while True:
            began, position, floor, reason = clock(), self.offset, 0.0, ""
            try:
                async with aclosing(self._connection()) as steps:
                    async for step in steps:
                        self.offset, self._cursor = step.offset, step.cursor
                        yield step
                        if step.closed:
                            return
            except _Lost as lost:
                reason, floor = str(lost), lost.floor
                self._urls.append(self._urls.pop(0))
            healthy = self.offset != position or clock() - began >= HEALTHY
            if healthy:
                backoff.reset()
            # A clean end is how a Machine asks to be asked again: at once, unless it does nothing else.
            if reason or not healthy:
                wait = backoff.next(floor)
                self._session.on_trouble(Trouble(reason or f"{self.url}: ended", backoff.failures, wait))
                await asyncio.sleep(wait)

    async def _connection(self) -> AsyncGenerator[Step, None]:
        self.url = url = self._urls[0]
        query = {"offset": self.offset, "live": "sse"}
        if self._cursor is not None:
            query["cursor"] = self._cursor
        try:
            async with self._session.http.stream("GET", url, params=query) as response:
                await self._accept(response)
                parse = Steps()
                async for chunk in response.aiter_bytes():
                    for step in parse.feed(chunk):
                        yield step
        except httpx.RequestError as error:
            raise _Lost(f"{url}: {one_line(error)}") from error

    async def _accept(self, response: httpx.Response) -> None:
        if response.status_code != 200:
            await response.aread()
            if response.status_code in RETRIED:
                raise _Lost(f"{self.url}: {explain(response)}", retry_after(response))
            raise refusal(response)
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise BadAnswer(f"{self.url}: not an event stream: is this a run gateway?")
        self.binary = response.headers.get("stream-sse-data-encoding") == "base64"
