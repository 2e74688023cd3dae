"""What most people write: FastAPI, a StreamingResponse, and an asyncio.Queue for each reader. It keeps nothing."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

app = FastAPI()
queues: dict[str, set[asyncio.Queue[bytes]]] = defaultdict(set)


@app.post("/runs/{run}", status_code=204)
async def publish(run: str, request: Request) -> Response:
    frame = b"event: data\ndata:" + await request.body() + b"\n\n"
    for queue in queues[run]:
        queue.put_nowait(frame)
    return Response(status_code=204)


@app.get("/runs/{run}")
async def subscribe(run: str) -> StreamingResponse:
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    queues[run].add(queue)

    async def frames() -> AsyncIterator[bytes]:
        try:
            while True:
                yield await queue.get()
        finally:
            queues[run].discard(queue)

    return StreamingResponse(frames(), media_type="text/event-stream")
