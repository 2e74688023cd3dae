"""What a relay must not add to a stream: the published clients read an agent server's answers, each decorated one way.

This is why the relay gives ids only to frames that have data, sends no frame of its own but comments, no `retry`, no
priming, and leaves line ends as they are. No gateway takes part. Should a client's next version read more than this
one, this test says so.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from itertools import chain

import pytest
import pytest_asyncio

from tests.relay.agents import AgentServer
from tests.relay.clients import Clients, Order
from tests.relay.dialects import DECORATIONS

pytestmark = pytest.mark.asyncio(loop_scope="session")

OPENAI_PYTHON = {"comments and ids", "frames of only an id", "retry", "priming"}
BREAKS: Mapping[str, set[str]] = {
    "ai-sdk": {"priming"},
    "tanstack": {"priming"},
    "langgraph": {"priming"},
    "langgraph-python": {"priming"},
    "openai-responses": {"priming"},
    "openai-responses-python": OPENAI_PYTHON,
    "openai-chat": {"priming"},
    "openai-chat-python": OPENAI_PYTHON,
    "ag-ui": {"priming", "CRLF"},
}

Outcomes = Mapping[tuple[str, str], str]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def outcomes(agent: AgentServer, clients: Mapping[str, Clients]) -> Outcomes:
    """How each client has read each answer: `exact`, or what it made of it."""

    async def read(client: str, how: str) -> tuple[tuple[str, str], str]:
        case = agent.case()
        await case.decorate(how)
        await case.say("one ", "two ")
        await case.finish("three")
        told = await clients[client].carry_out(Order(client, agent.url, case.name, uuid.uuid4().hex, resume=False))
        end = await told.ended()
        return (client, how), "exact" if (told.text, end) == (case.said, "finished") else f"{told.text!r}, {end}"

    async def read_all(client: str) -> list[tuple[tuple[str, str], str]]:
        return [await read(client, how) for how in DECORATIONS]

    return dict(chain.from_iterable(await asyncio.gather(*map(read_all, BREAKS))))


@pytest.mark.parametrize("how", DECORATIONS)
@pytest.mark.parametrize("client", BREAKS)
async def test_what_a_stream_may_have_added_to_it(outcomes: Outcomes, client: str, how: str) -> None:
    assert (outcomes[client, how] != "exact") == (how in BREAKS[client]), outcomes[client, how]
