"""What the tests of the relay share: a house of Machines, an agent server, and the clients' processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import pytest
import pytest_asyncio

from tests.relay.agents import AgentServer
from tests.relay.clients import BrowserClients, Clients, NodeClients, PythonClients, build_page
from tests.relay.houses import House


@pytest.fixture
def house(machines: House) -> House:
    """The file's `machines`, whose agent server has been asked nothing."""
    machines.agent.calls.clear()
    return machines


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def agent(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AgentServer]:
    """One that also serves the page."""
    page = await build_page(tmp_path_factory.mktemp("page"))
    async with AgentServer.start(page) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def clients() -> AsyncIterator[Mapping[str, Clients]]:
    """All clients by their names, which are also those of tests/relay/outcomes.py."""
    async with NodeClients.start() as node, PythonClients.start() as python, BrowserClients.start() as browser:
        yield {
            "ai-sdk": browser,
            "ai-sdk-5": node,
            "ai-sdk-6": node,
            "ai-sdk-workflow": node,
            "tanstack": node,
            "tanstack-http": node,
            "langgraph": node,
            "langgraph-python": python,
            "openai-responses": node,
            "openai-responses-python": python,
            "openai-chat": node,
            "openai-chat-python": python,
            "ag-ui": node,
            "sse": python,
            "event-source": python,
            "ndjson": python,
        }
