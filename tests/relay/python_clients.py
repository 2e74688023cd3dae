"""The published clients of PyPI, each as an app would use it, and two plain ones of the dialects that have none.

Each is given its order and a function that hears what it tells; it returns how it ended (clients.Told.end).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import httpx

from tests.event_source import read
from tests.node import unavailable

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from tests.relay.clients import Order

Hear = Callable[[dict[str, Any]], None]
Client = Callable[["Order", Hear], Awaitable[str]]

_TRIES = 20  # of a plain client to come back, one after the other
_PAUSE = 0.1  # seconds between them


def require() -> None:
    """The test is skipped where the extra `test` was installed before it had these clients; in CI it fails."""
    missing = [name for name in ("langgraph_sdk", "openai") if find_spec(name) is None]
    if missing:
        unavailable(f"the packages {', '.join(missing)} of the extra `test` are not installed")


async def langgraph(order: Order, hear: Hear) -> str:
    from langgraph_sdk import get_client

    async with get_client(url=order.url, api_key=None) as client:
        if order.do == "ask":
            parts = client.runs.stream(
                "thread",
                "agent",
                input={"messages": [{"role": "user", "content": order.prompt}]},
                stream_mode=["custom", "values"],
                on_run_created=lambda run: hear({"key": run["run_id"]}),
            )
        else:
            parts = client.runs.join_stream("thread", order.key, last_event_id="-1")
        end = "ended"
        async for part in parts:
            data: Any = part.data
            match part.event:
                case "custom":
                    hear({"text": data["text"]})
                case "values":
                    end = "finished"
                case "error":
                    end = f"error: {data['message']}"
                case "metadata" | "end":
                    pass
                case _:
                    return f"error: a part {part.event!r}"
        return end


async def openai_responses(order: Order, hear: Hear) -> str:
    async with _openai(order) as client:
        if order.do == "ask":
            stream = await client.responses.create(model="m", input=order.prompt, stream=True, background=True)
        elif order.cursor is None:
            stream = await client.responses.retrieve(order.key, stream=True)
        else:
            stream = await client.responses.retrieve(order.key, stream=True, starting_after=order.cursor)
        async for event in stream:
            match event.type:
                case "response.created":
                    hear({"key": event.response.id})
                case "response.output_text.delta":
                    hear({"text": event.delta, "cursor": event.sequence_number})
                case "response.completed":
                    return "finished"
                case "error":
                    return f"error: {event.message}"
        return "ended"


async def openai_chat(order: Order, hear: Hear) -> str:
    async with _openai(order) as client:
        end = "ended"
        async for chunk in await client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": order.prompt}],
            stream=True,
            extra_headers={"idempotency-key": order.key},
        ):
            if chunk.choices[0].delta.content:
                hear({"text": chunk.choices[0].delta.content})
            if chunk.choices[0].finish_reason:
                end = "finished"
        return end


def _openai(order: Order) -> AsyncOpenAI:
    from openai import AsyncOpenAI

    return AsyncOpenAI(base_url=f"{order.url}/v1", api_key="none", max_retries=0)


async def sse(order: Order, hear: Hear) -> str:
    """Names its run, and comes back with the last id that it has seen, as the HTML standard has it."""
    async with httpx.AsyncClient(base_url=order.url, trust_env=False, timeout=None) as http:
        body = {"prompt": order.prompt}
        headers: dict[str, str] = {}
        request = http.build_request("POST", "/events", json=body, headers={"x-run-id": order.key})
        if order.do != "ask":
            request = http.build_request("GET", f"/events/{order.key}")
        for _ in range(_TRIES):
            rest, end = b"", None
            try:
                async for piece in _pieces(http, request):
                    *frames, rest = (rest + piece).split(b"\n\n")
                    for event in read(b"".join(frame + b"\n\n" for frame in frames)).events:
                        if event.last_event_id:
                            headers["last-event-id"] = event.last_event_id
                        end = _token(event.type, event.data, hear) or end
                return end or "ended"
            except httpx.TransportError:
                await asyncio.sleep(_PAUSE)
                request = http.build_request("GET", f"/events/{order.key}", headers=headers)
        return "error: tried too often"


async def event_source(order: Order, hear: Hear) -> str:
    """Asks at one address again and again, with the last id that it has seen, until it is told that there is no more:
    as the HTML standard has it (§9.2.3).
    """
    async with httpx.AsyncClient(base_url=order.url, trust_env=False, timeout=None) as http:
        headers = {"accept": "text/event-stream"}
        end: str | None = None
        for _ in range(_TRIES):
            request = http.build_request(
                "GET", "/source", params={"prompt": order.prompt, "run": order.key}, headers=headers
            )
            rest, came = b"", False
            try:
                async for piece in _pieces(http, request):
                    came = True
                    *frames, rest = (rest + piece).split(b"\n\n")
                    for event in read(b"".join(frame + b"\n\n" for frame in frames)).events:
                        if event.last_event_id:
                            headers["last-event-id"] = event.last_event_id
                        end = _token(event.type, event.data, hear) or end
                if end or not came:
                    return end or "ended"
            except httpx.TransportError:
                pass
            await asyncio.sleep(_PAUSE)
        return "error: tried too often"


def _token(type: str, data: str, hear: Hear) -> str | None:
    if type == "token":
        hear({"text": json.loads(data)["text"]})
    return {"done": "finished", "error": f"error: {data}"}.get(type)


async def ndjson(order: Order, hear: Hear) -> str:
    """Names its run, and comes back with the number of lines that it has."""
    async with httpx.AsyncClient(base_url=order.url, trust_env=False, timeout=None) as http:
        request = http.build_request("POST", "/lines", json={"prompt": order.prompt}, headers={"x-run-id": order.key})
        if order.do != "ask":
            request = http.build_request("GET", f"/lines/{order.key}")
        lines = 0
        for _ in range(_TRIES):
            rest = b""
            try:
                async for piece in _pieces(http, request):
                    *whole, rest = (rest + piece).split(b"\n")
                    for line in whole:
                        lines += 1
                        value = json.loads(line)
                        if "text" in value:
                            hear({"text": value["text"]})
                        if "done" in value:
                            return "finished"
                        if "error" in value:
                            return f"error: {value['error']}"
                return "ended"
            except httpx.TransportError:
                await asyncio.sleep(_PAUSE)
                request = http.build_request("GET", f"/lines/{order.key}", params={"from": lines})
        return "error: tried too often"


async def _pieces(http: httpx.AsyncClient, request: httpx.Request) -> AsyncIterator[bytes]:
    response = await http.send(request, stream=True)
    try:
        response.raise_for_status()
        async for piece in response.aiter_raw():
            yield piece
    finally:
        await response.aclose()


CLIENTS: Mapping[str, Client] = {
    "langgraph-python": langgraph,
    "openai-responses-python": openai_responses,
    "openai-chat-python": openai_chat,
    "sse": sse,
    "event-source": event_source,
    "ndjson": ndjson,
}
