"""What somebody who minds writes instead of a gateway: FastAPI before a store of streams, with SSE that resumes.

One follower of the store for each run that is read here, and a queue for each reader. A reader is registered first and
then reads what it has missed, so that it misses nothing; what it has then been given twice is told by the ids.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from importlib import import_module
from typing import Annotated

import orjson
from fastapi import FastAPI, Header, Request
from fastapi.responses import Response, StreamingResponse

from loadtests.bench.peers.store import START, Gone, Id, Store

PAGE = 5_000  # events

module, _, name = os.environ["BENCH_STORE"].partition(":")
store: Store = getattr(import_module(f"loadtests.bench.peers.{module}"), name)()
app = FastAPI()


class Tail:
    """The events of one run as they come, for all of its readers here; None when the store has gone."""

    def __init__(self, run: str) -> None:
        self.readers: set[asyncio.Queue[tuple[Id, bytes] | None]] = set()
        self.ready = asyncio.Event()
        self.task = asyncio.create_task(self._follow(run))

    async def _follow(self, run: str) -> None:
        try:
            last = await store.last(run)
            self.ready.set()
            async for events in store.follow(run, last):
                for id, event in events:
                    found = id, frame(id, event)
                    for queue in self.readers:
                        queue.put_nowait(found)
        except Gone:
            tails.pop(run, None)
            self.ready.set()
            for queue in self.readers:
                queue.put_nowait(None)


tails: dict[str, Tail] = {}


def frame(id: Id, event: bytes) -> bytes:
    return b"id: %d-%d\nevent: data\ndata:%b\n\n" % (*id, event)


@app.post("/runs/{run}", status_code=204)
async def publish(run: str, request: Request) -> Response:
    body = await request.body()
    events = [orjson.dumps(event) for event in orjson.loads(body)] if body[:1] == b"[" else [body]
    try:
        await store.append(run, events, repeatable(request))
    except Gone:
        return Response(status_code=503)
    return Response(status_code=204)


def repeatable(request: Request) -> str | None:
    """The name of an append by the protocol's headers for idempotent producers, if it has them."""
    parts = [request.headers.get(f"producer-{part}") for part in ("id", "epoch", "seq")]
    return None if None in parts else ":".join(map(str, parts))


@app.get("/runs/{run}")
async def read(run: str, offset: str | None = None, last_event_id: Annotated[str | None, Header()] = None) -> Response:
    """A page after an offset; without one, SSE from the start or after the Last-Event-ID."""
    try:
        if offset is not None:
            return await page(run, parse(offset))
    except Gone:
        return Response(status_code=503)
    return StreamingResponse(frames(run, parse(last_event_id or "-1")), media_type="text/event-stream")


def parse(text: str) -> Id:
    if text == "-1":
        return START
    first, _, second = text.partition("-")
    return int(first), int(second)


async def page(run: str, after: Id) -> Response:
    events = await store.page(run, after, PAGE)
    headers = {"Stream-Next-Offset": "{}-{}".format(*(events[-1][0] if events else after))}
    if len(events) < PAGE:
        headers["Stream-Up-To-Date"] = "true"
    body = b"[%b]" % b",".join([event for _, event in events])
    return Response(body, media_type="application/json", headers=headers)


async def frames(run: str, after: Id) -> AsyncIterator[bytes]:
    if (tail := tails.get(run)) is None:
        tail = tails[run] = Tail(run)
    queue: asyncio.Queue[tuple[Id, bytes] | None] = asyncio.Queue()
    tail.readers.add(queue)
    try:
        await tail.ready.wait()
        while events := await store.page(run, after, PAGE):
            yield b"".join([frame(id, event) for id, event in events])
            after = events[-1][0]
        while (found := await queue.get()) is not None:
            id, text = found
            if id > after:
                after = id
                yield text
    except Gone:
        return
    finally:
        tail.readers.discard(queue)
        if not tail.readers and tails.get(run) is tail:
            del tails[run]
            tail.task.cancel()
