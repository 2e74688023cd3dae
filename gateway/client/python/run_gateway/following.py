"""`follow`: the events of a run as they come, through every lost connection to its end."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing
from typing import Any

from run_gateway.address import checked
from run_gateway.errors import BadAnswer
from run_gateway.follower import Follower
from run_gateway.portal import portal
from run_gateway.session import Session
from run_gateway.sharing import sharing
from run_gateway.sse import Step, unbase64

_Step = tuple[list[Any], str, bool]
"""Events, the offset after them, and whether the stream ends there."""


class Following:
    """The events that `follow` returns: `async for event in …`, or `for event in …` where there is no loop."""

    def __init__(self, url: str, offset: str, token: str | None, session: Session | None) -> None:
        self.url = checked(url)
        self.closed = False
        """Whether the last event has been given."""
        self._offset, _, skip = offset.partition("+")
        self._given = int(skip) if skip.isdigit() else 0
        self._token = token
        self._session = session

    @property
    def offset(self) -> str:
        """The offset that `follow(url, offset=…)` goes on from, after the last event that was given.

        It is an offset of the stream and, among the events that came with one offset, `+` and how many were given.
        """
        return f"{self._offset}+{self._given}" if self._given else self._offset

    async def __aiter__(self) -> AsyncIterator[Any]:
        """Every event from where it is to the run's end. Raises ClientError."""
        async with aclosing(self._steps()) as steps:
            async for events, offset, closed in steps:
                for event in self._give(events, offset, closed):
                    yield event

    def __iter__(self) -> Iterator[Any]:
        """As `async for`."""
        with portal() as there:
            steps = self._steps()
            try:
                while (step := there.call(_next(steps))) is not None:
                    yield from self._give(*step)
            finally:
                there.call(steps.aclose())

    async def _steps(self) -> AsyncGenerator[_Step, None]:
        async with AsyncExitStack() as stack:
            if self._session is None:
                session = await stack.enter_async_context(sharing(self._token))
            else:
                session = self._session
            head = await session.head(self.url)  # a stream of events does not tell what they are
            of_json = head.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
            follower = Follower(session, [self.url], self._offset)
            async with aclosing(aiter(follower)) as steps:
                async for step in steps:
                    yield _events(step, of_json, follower.binary), step.offset, step.closed

    def _give(self, events: list[Any], offset: str, closed: bool) -> Iterator[Any]:
        first, last = self._given, len(events)
        if first >= last:
            self._offset, self._given, self.closed = offset, first - last, closed
        for number in range(first, last):
            self._given = number + 1
            if self._given == last:  # before it is given, for whoever stops there
                self._offset, self._given, self.closed = offset, 0, closed
            yield events[number]


async def _next(steps: AsyncGenerator[_Step, None]) -> _Step | None:
    return await anext(steps, None)


def follow(url: str, *, offset: str = "-1", token: str | None = None, session: Session | None = None) -> Following:
    """The events of a run, or of any stream, from an offset on, as they come, until it is closed.

    Of a JSON stream the values; of text, pieces of it; of others, bytes. Whatever cuts a connection, it goes on where
    it was: nothing is lost, nothing comes twice. `token`: by default what the variable RUN_GATEWAY_TOKEN holds.
    Raises ClientError: NoSuchStream, StreamGone, NotLetIn; GaveUp if the gateway never answers.
    """
    if not isinstance(offset, str):
        raise TypeError(f"offset is a str that was given out, '-1' or 'now', not {offset!r}")
    return Following(url, offset, token, session)


def _events(step: Step, of_json: bool, binary: bool) -> list[Any]:
    if not of_json:  # one piece with one offset: how the pieces are cut is otherwise when they are read again
        whole: str | bytes = b"".join(map(unbase64, step.data)) if binary else "".join(step.data)
        return [whole] if whole else []
    events: list[Any] = []
    for data in step.data:
        try:
            events += json.loads(data)
        except ValueError:
            raise BadAnswer(f"not a JSON array: {data[:200]!r}") from None
    return events
