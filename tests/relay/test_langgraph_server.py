"""A real LangGraph server, `langgraph dev`, and its own client through two Machines. It runs where it is asked for:

LANGGRAPH=path/to/bin/langgraph pytest tests/relay/test_langgraph_server.py    # pip install 'langgraph-cli[inmem]'
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.machines import Machine, free_port
from tests.relay import python_clients
from tests.relay.agents import PATIENCE
from tests.tools.proxy import Proxy

PROGRAM = os.environ.get("LANGGRAPH")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="LANGGRAPH does not name the program of a LangGraph server")

# Says each token as soon as a file of its name is there, and notes each time that it is run.
GRAPH = """
import asyncio, uuid
from pathlib import Path
from typing import TypedDict
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph

class State(TypedDict):
    folder: str

async def speak(state: State) -> State:
    folder = Path(state["folder"])
    (folder / f"call-{uuid.uuid4()}").touch()
    write = get_stream_writer()
    for token in ("one", "two", "three"):
        while not (folder / token).exists():
            await asyncio.sleep(0.01)
        write({"text": token + " "})
    return state

builder = StateGraph(State)
builder.add_node("speak", speak)
builder.add_edge(START, "speak")
builder.add_edge("speak", END)
graph = builder.compile()
"""


@contextlib.asynccontextmanager
async def langgraph_server(folder: Path) -> AsyncIterator[str]:
    """The address of one that serves this graph from `folder`."""
    (folder / "graph.py").write_text(GRAPH)
    (folder / "langgraph.json").write_text(json.dumps({"dependencies": ["."], "graphs": {"agent": "./graph.py:graph"}}))
    port = free_port()
    assert PROGRAM is not None, "or the test is skipped"
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        *("dev", "--no-browser", "--no-reload", "--allow-blocking", "--host", "127.0.0.1", "--port", str(port)),
        cwd=folder,
        env={**os.environ, "LANGGRAPH_CLI_NO_ANALYTICS": "1", "LANGSMITH_TRACING": "false"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(PATIENCE):
            while not await _listens(http, url):
                assert process.returncode is None, "the LangGraph server has ended at once"
                await asyncio.sleep(0.1)
        yield url
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _listens(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(f"{url}/ok")).is_success
    except httpx.TransportError:
        return False


async def test_a_langgraph_run_survives_a_cut_and_a_reload(database_url: str, tmp_path: Path) -> None:
    python_clients.require()
    from langgraph_sdk import get_client

    words = tmp_path / "words"
    words.mkdir()
    async with langgraph_server(tmp_path) as upstream:
        env = {"GATEWAY_UPSTREAM": upstream, "GATEWAY_RELAY": "langgraph:/"}
        async with (
            Machine.start(database_url, env=env) as a,
            Machine.start(database_url, env=env) as b,
            Proxy(a.url) as proxy,
            get_client(url=proxy.url, api_key=None) as client,
        ):
            thread = (await client.threads.create())["thread_id"]
            run: list[str] = []
            parts = client.runs.stream(
                thread,
                "agent",
                input={"folder": str(words)},
                stream_mode="custom",
                on_run_created=lambda created: run.append(created["run_id"]),
            )
            spoken = texts(parts)
            (words / "one").touch()
            assert await anext(spoken) == "one "
            proxy.target = b.url
            proxy.cut()
            (words / "two").touch()
            assert await anext(spoken) == "two "
            joined = client.runs.join_stream(thread, run[0], last_event_id="-1")
            (words / "three").touch()
            assert [text async for text in spoken] == ["three "]
            assert [text async for text in texts(joined)] == ["one ", "two ", "three "]
            async with httpx.AsyncClient(base_url=b.url, trust_env=False) as http:
                assert "langgraph:/" in (await http.get("/runs")).text  # it was the relay's to resume
    assert len(list(words.glob("call-*"))) == 1


async def test_a_langgraph_run_survives_a_kill_of_its_recorder(database_url: str, tmp_path: Path) -> None:
    python_clients.require()
    from langgraph_sdk import get_client

    words = tmp_path / "words"
    words.mkdir()
    async with langgraph_server(tmp_path) as upstream:
        env = {"GATEWAY_UPSTREAM": upstream, "GATEWAY_RELAY": "langgraph:/", "GATEWAY_RELAY_LEASE": "2"}
        async with (
            Machine.start(database_url, env=env) as a,
            Machine.start(database_url, env=env) as b,
            Proxy(a.url) as proxy,
            get_client(url=proxy.url, api_key=None) as client,
        ):
            thread = (await client.threads.create())["thread_id"]
            parts = client.runs.stream(
                thread,
                "agent",
                input={"folder": str(words)},
                stream_mode="custom",
                on_disconnect="cancel",  # which is the relay's to do, when the client leaves
            )
            spoken = texts(parts)
            (words / "one").touch()
            assert await anext(spoken) == "one "
            proxy.target = b.url
            await a.kill()
            (words / "two").touch()
            assert await anext(spoken) == "two "
            (words / "three").touch()
            assert [text async for text in spoken] == ["three "]
            async with httpx.AsyncClient(base_url=b.url, trust_env=False) as http:
                (run,) = (await http.get("/runs")).json()["runs"]
                assert run["status"] == "completed"
    assert len(list(words.glob("call-*"))) == 1


async def texts(parts: Any) -> AsyncIterator[str]:
    async for part in parts:
        if part.event == "custom":
            yield part.data["text"]
