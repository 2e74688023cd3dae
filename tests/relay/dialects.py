"""What agent servers write into their answers, by dialect: the frames that open an answer, carry a text, and end it.

Pure, and as plain as such servers are: no dialect has ids, cursors or anything else by which a client could come back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass
class Turn:
    """One answer under way. `run`, `thread`: what its dialect calls it by. `count`: frames so far."""

    run: str
    thread: str
    count: int = 0


Frames = Callable[[Turn], list[bytes]]


@dataclass(frozen=True)
class Dialect:
    """`route`: the path of its requests, with `{thread}` for any segment. `headers`: of the answer."""

    route: str
    opening: Frames
    text: Callable[[Turn, str], bytes]
    closing: Frames
    media_type: str = "text/event-stream"
    headers: tuple[tuple[str, str], ...] = ()
    method: str = "POST"


def frame(data: Any, event: str = "") -> bytes:
    """One event: a JSON value, or a text as it is, on its one line of data."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return (f"event: {event}\n" if event else "").encode() + f"data: {text}\n\n".encode()


def _named(turn: Turn, type: str, **fields: Any) -> bytes:
    """An event of the Responses API, which numbers them."""
    turn.count += 1
    return frame({"type": type, "sequence_number": turn.count - 1, **fields}, type)


def _response(turn: Turn, status: str) -> dict[str, Any]:
    return {"id": turn.run, "object": "response", "created_at": 0, "status": status, "model": "m", "output": []}


def _chunk(turn: Turn, **choice: Any) -> bytes:
    choices = [{"index": 0, "delta": {}, "finish_reason": None, **choice}]
    return frame({"id": turn.run, "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": choices})


def _ui(route: str) -> Dialect:
    return Dialect(
        route,
        lambda turn: [
            frame({"type": "start", "messageId": f"message-{turn.run}"}),
            frame({"type": "text-start", "id": "t"}),
        ],
        lambda _, text: frame({"type": "text-delta", "id": "t", "delta": text}),
        lambda _: [frame({"type": "text-end", "id": "t"}), frame({"type": "finish"}), frame("[DONE]")],
        headers=(("x-vercel-ai-ui-message-stream", "v1"),),
    )


def line(data: Any) -> bytes:
    """A JSON value on its line."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _ag_ui(
    route: str, media_type: str = "text/event-stream", written: Callable[[dict[str, Any]], bytes] = frame
) -> Dialect:
    def event(turn: Turn, type: str, **fields: Any) -> bytes:
        return written({"type": type, **fields})

    return Dialect(
        route,
        lambda turn: [
            event(turn, "RUN_STARTED", threadId=turn.thread, runId=turn.run),
            event(turn, "TEXT_MESSAGE_START", messageId=f"message-{turn.run}", role="assistant"),
        ],
        lambda turn, text: event(turn, "TEXT_MESSAGE_CONTENT", messageId=f"message-{turn.run}", delta=text),
        lambda turn: [
            event(turn, "TEXT_MESSAGE_END", messageId=f"message-{turn.run}"),
            event(turn, "RUN_FINISHED", threadId=turn.thread, runId=turn.run),
        ],
        media_type,
    )


DIALECTS: Final[Mapping[str, Dialect]] = {
    "ai-sdk": _ui("/api/chat"),
    "ai-sdk-workflow": _ui("/api/workflow"),
    "tanstack": _ag_ui("/tanstack"),
    "tanstack-http": _ag_ui("/tanstack-http", "application/x-ndjson", line),
    "ag-ui": _ag_ui("/agent"),
    "langgraph": Dialect(
        "/threads/{thread}/runs/stream",
        lambda turn: [frame({"run_id": turn.run, "attempt": 1}, "metadata")],
        lambda _, text: frame({"text": text}, "custom"),
        lambda _: [frame({"done": True}, "values"), frame(None, "end")],
        headers=(
            ("location", "/threads/{thread}/runs/{run}/stream"),
            ("content-location", "/threads/{thread}/runs/{run}"),
        ),
    ),
    "openai-responses": Dialect(
        "/v1/responses",
        lambda turn: [_named(turn, "response.created", response=_response(turn, "in_progress"))],
        lambda turn, text: _named(
            turn,
            "response.output_text.delta",
            item_id="i",
            output_index=0,
            content_index=0,
            delta=text,
            logprobs=[],
        ),
        lambda turn: [_named(turn, "response.completed", response=_response(turn, "completed"))],
    ),
    "openai-chat": Dialect(
        "/v1/chat/completions",
        lambda turn: [_chunk(turn, delta={"role": "assistant", "content": ""})],
        lambda turn, text: _chunk(turn, delta={"content": text}),
        lambda turn: [_chunk(turn, finish_reason="stop"), frame("[DONE]")],
    ),
    "sse": Dialect(
        "/events",
        lambda _: [frame("hello", "begin")],
        lambda _, text: frame({"text": text}, "token"),
        lambda _: [frame("bye", "done")],
    ),
    "event-source": Dialect(
        "/source",
        lambda _: [frame("hello", "begin")],
        lambda _, text: frame({"text": text}, "token"),
        lambda _: [frame("bye", "done")],
        method="GET",
    ),
    "ndjson": Dialect(
        "/lines",
        lambda _: [line({"begin": True})],
        lambda _, text: line({"text": text}),
        lambda _: [line({"done": True})],
        media_type="application/x-ndjson",
    ),
}

# What a proxy may think harmless to add to an event stream: each frame as it goes out, `n` its number.
DECORATIONS: Final[Mapping[str, Callable[[bytes, int], bytes]]] = {
    "nothing": lambda frame, _: frame,
    "ids": lambda frame, n: b"id: %d\n%b" % (n, frame),
    "comments": lambda frame, _: b": hb\n\n" + frame,
    "comments and ids": lambda frame, n: b": hb\n\nid: %d\n%b" % (n, frame),
    "frames of only an id": lambda frame, n: frame + b"id: %d\n\n" % n,
    "retry": lambda frame, n: (b"" if n else b"retry: 1000\n\n") + frame,
    "priming": lambda frame, n: (b"" if n else b"id: p\ndata: \n\n") + frame,
    "CRLF": lambda frame, _: frame.replace(b"\n", b"\r\n"),
}
