"""What each client can have of the relay: how it comes back to an answer, and what a fault leaves it with.

The tables in gateway/relay/README.md are made of these, and tests/relay/test_clients.py holds that they are true.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class Back(Enum):
    """How an app comes back after an error in the middle of an answer."""

    ALONE = "by itself, from where it was"
    SHOWN = "when its page is shown again, or reloaded"
    CURSOR = "when the app asks, from where it was"
    START = "when the app asks again with its key, from the start"


BACK: Final[Mapping[str, Back]] = {
    "ai-sdk": Back.SHOWN,
    "ai-sdk-workflow": Back.ALONE,
    "tanstack": Back.ALONE,
    "langgraph": Back.ALONE,
    "langgraph-python": Back.ALONE,
    "openai-responses": Back.CURSOR,
    "openai-responses-python": Back.CURSOR,
    "openai-chat": Back.START,
    "openai-chat-python": Back.START,
    "ag-ui": Back.START,
    "sse": Back.ALONE,
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
    "ndjson": ("/lines/{key}/stop", "ended"),
}
"""The POST that stops an answer, and how its client takes it. LangGraph's is the upstream's own: it ends its stream."""
