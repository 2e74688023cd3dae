"""What each client can have of the relay: how it comes back to an answer, and what a fault leaves it with.

`python -m tests.relay.outcomes` prints the table that stands in gateway/relay/README.md; tests/relay/test_clients.py
holds that it is true.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class Back(Enum):
    """How an app comes back after an error in the middle of an answer."""

    ALONE = "goes on by itself"
    SHOWN = "an error, until its page is hidden and shown, or reloaded: then all of it"
    CURSOR = "an error; goes on from where it was as the app calls `retrieve` with `starting_after`"
    START = "an error; from the start as the app asks again with its key"


BACK: Final[Mapping[str, Back]] = {
    "ai-sdk": Back.SHOWN,
    "ai-sdk-workflow": Back.ALONE,
    "tanstack": Back.ALONE,
    "tanstack-http": Back.ALONE,
    "langgraph": Back.ALONE,
    "langgraph-python": Back.ALONE,
    "openai-responses": Back.CURSOR,
    "openai-responses-python": Back.CURSOR,
    "openai-chat": Back.START,
    "openai-chat-python": Back.START,
    "ag-ui": Back.START,
    "sse": Back.ALONE,
    "event-source": Back.ALONE,
    "ndjson": Back.ALONE,
}

STOPS: Final[Mapping[str, tuple[str, str]]] = {
    "ai-sdk": ("/api/chat/{key}/stop", "finished"),
    "ai-sdk-workflow": ("/api/workflow/{key}/stop", "stopped"),
    "langgraph": ("/threads/thread/runs/{key}/cancel", "finished"),
    "langgraph-python": ("/threads/thread/runs/{key}/cancel", "finished"),
    "openai-responses": ("/v1/responses/{key}/cancel", "ended"),
    "openai-responses-python": ("/v1/responses/{key}/cancel", "ended"),
    "sse": ("/events/{key}/stop", "ended"),
    "event-source": ("/source/{key}/stop", "ended"),
    "ndjson": ("/lines/{key}/stop", "ended"),
}
"""The POST that stops an answer, and how its client takes it. LangGraph's is the upstream's own: it ends its stream."""

NAMES: Final[Mapping[str, str]] = {
    "ai-sdk": "AI SDK 7, `useChat({ resume: true })`",
    "ai-sdk-workflow": "AI SDK 7 with `WorkflowChatTransport`",
    "tanstack": "TanStack AI, `fetchServerSentEvents`",
    "tanstack-http": "TanStack AI, `fetchHttpStream`",
    "langgraph": "LangGraph SDK, JS and Python",
    "openai-responses": "OpenAI Responses, JS and Python, `background: true`",
    "openai-chat": "OpenAI Chat Completions, JS and Python",
    "ag-ui": "AG-UI, `HttpAgent`",
    "sse": "any client of event streams",
    "event-source": "`EventSource`",
    "ndjson": "any client of NDJSON",
}
RELOAD: Final[Mapping[str, str]] = {
    "ai-sdk": "all of it, by itself",
    "ai-sdk-workflow": "all of it, if the app knows the run's id",
    "tanstack": "all of it, by itself, if the app knows the run's id",
    "tanstack-http": "all of it, by itself, if the app knows the run's id",
    "langgraph": "all of it, as the app calls `joinStream` with `-1`",
    "openai-responses": "all of it, as the app calls `retrieve`",
    "openai-chat": "all of it, as the app asks again with its key",
    "ag-ui": "all of it, as the app asks again with its key",
    "sse": "all of it, at its key's address",
    "event-source": "all of it, by itself, if its address has a `run`",
    "ndjson": "all of it, at its key's address",
}


def table() -> str:
    """What each client can, as a Markdown table."""
    lines = ["| client | a connection or its Machine lost | reload | stop |", "|---|---|---|---|"]
    for client, name in NAMES.items():
        stop = "closes its connection only" if client not in STOPS else f"`POST {STOPS[client][0]}`"
        if client == "langgraph":
            stop = "its own, which the agent server answers"
        lines.append(f"| {name} | {BACK[client].value} | {RELOAD[client]} | {stop} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
