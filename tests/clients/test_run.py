"""`Run`: an agent's events are in the log once and in order, and its run ends as it should, whatever happens."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from run_gateway import Backoff, Fenced, Refused, Run, RunCancelled, Session, client
from run_gateway.producer import MOST
from tests.machines import Machine
from tests.manual import manual


@asynccontextmanager
async def session() -> AsyncIterator[Session]:
    async with client() as http:
        yield Session(http, backoff=lambda: Backoff(first=0.01, most=0.1))


async def events(machine: Machine, run: str) -> list[Any]:
    async with httpx.AsyncClient() as http:
        found: list[Any] = (await http.get(f"{machine.url}/runs/{run}")).json()
        return found


async def record(machine: Machine, run: str) -> dict[str, Any]:
    async with httpx.AsyncClient(timeout=60) as http:
        found: dict[str, Any] = (await http.get(f"{machine.url}/runs/{run}?meta&wait=50")).json()
        return found


class Message:
    """As LangChain's: no JSON, but it knows itself as such."""

    def __init__(self, content: str) -> None:
        self.content = content

    def model_dump(self, mode: str) -> dict[str, str]:
        return {"content": self.content}


class Graph:
    """As a compiled LangGraph: `astream` with several modes gives pairs. In the middle, its Machine is killed."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def astream(self, question: object, stream_mode: list[str]) -> AsyncIterator[tuple[str, Any]]:
        for number in range(100):
            yield "messages", (Message(f"token {number}"), {"langgraph_node": "think"})
            if number == 30:
                await self._machine.kill()
            if number == 60:
                await self._machine.restart()
        yield "updates", {"think": {"messages": [Message(str(question))]}}


async def test_the_recipe_for_langgraph_loses_and_repeats_nothing(database_url: str) -> None:
    code = next(code for code in re.findall(r"```python\n(.*?)```", manual("client"), re.DOTALL) if "astream" in code)
    assert len(code.strip().splitlines()) <= 10
    async with Machine.start(database_url) as machine:
        names: dict[str, Any] = {}
        exec(code.replace("http://127.0.0.1:8080", machine.url), names)
        await names["record"](Graph(machine), "why?", "r")
        *tokens, update, end = await events(machine, "r")
        assert tokens == [
            {"type": "messages", "data": [{"content": f"token {n}"}, {"langgraph_node": "think"}]} for n in range(100)
        ]
        assert update == {"type": "updates", "data": {"think": {"messages": [{"content": "why?"}]}}}
        assert end == {"type": "run_end", "isError": False}
        assert (await record(machine, "r"))["status"] == "completed"


async def test_how_a_run_ends(database_url: str) -> None:
    async with Machine.start(database_url) as machine, session() as http, asyncio.timeout(120):
        emitted = asyncio.Event()

        async def agent(run_id: str, event: object, error: Exception | None = None) -> None:
            async with Run(http, machine.url, {"id": run_id, "lease": 30}) as run:
                await run.emit(event)
                await run.flush()
                emitted.set()
                if error is not None:
                    raise error
                await asyncio.Event().wait()

        async def ended(run_id: str) -> tuple[str, str]:
            found = await record(machine, run_id)
            return found["status"], found["error"]["name"]

        # An exception goes on its way, and the run says so.
        with pytest.raises(KeyError):
            await agent("failed", 1, KeyError("tool"))
        assert await ended("failed") == ("errored", "KeyError")
        assert await events(machine, "failed") == [
            1,
            {"type": "run_end", "isError": True, "error": {"name": "KeyError", "message": "'tool'"}},
        ]

        # What the gateway refuses ends the block at once.
        with pytest.raises(Refused, match="413"):
            await agent("too large", "x" * 11_000_000)
        assert await ended("too large") == ("errored", "Refused")

        # A cancel interrupts even what emits nothing.
        emitted.clear()
        cancelled = asyncio.create_task(agent("cancelled", 1))
        await emitted.wait()
        await http.http.post(f"{machine.url}/runs/cancelled/cancel")
        with pytest.raises(RunCancelled):
            await cancelled
        assert await ended("cancelled") == ("errored", "RunCancelled")


async def test_who_begins_a_run_again_takes_it_over(database_url: str) -> None:
    async with Machine.start(database_url) as machine, session() as http, asyncio.timeout(120):
        wrote = asyncio.Event()

        async def agent(event: str) -> None:
            async with Run(http, machine.url, {"id": "r"}) as run:
                await run.emit(event)
                await run.flush()
                wrote.set()
                await asyncio.Event().wait()

        first = asyncio.create_task(agent("by the first"))
        await wrote.wait()
        wrote.clear()
        second = asyncio.create_task(agent("by the second"))
        await wrote.wait()
        with pytest.raises(Fenced):
            await first
        second.cancel()  # as when its process is replaced
        await asyncio.wait([second])
        assert second.cancelled()
        async with Run(http, machine.url, {"id": "r"}) as run:
            await run.emit("by the third")
        assert (await record(machine, "r"))["status"] == "completed"
        assert (await events(machine, "r"))[:-1] == ["by the first", "by the second", "by the third"]


async def test_events_that_come_up_during_a_request_go_together(database_url: str) -> None:
    most = {"GATEWAY_MAX_BATCH": str(MOST)}
    async with Machine.start(database_url, env=most) as machine, session() as http:
        async with Run(http, machine.url) as run:
            for number in range(5000):
                await run.emit(number)
        found = await events(machine, run.coordinates["runId"])
        metrics = (await http.http.get(f"{machine.url}/metrics")).text
    assert found[:-1] == list(range(5000))
    requests = re.search(r'^run_gateway_appends_total\{outcome="appended"\} (\d+)', metrics, re.MULTILINE)
    assert requests is not None and int(requests[1]) < 500


@pytest.mark.parametrize("fields", [{"input": float("nan")}, {"metadata": {"a": float("inf")}}, {"input": object()}])
async def test_fields_that_are_no_json_are_refused_at_their_line(fields: dict[str, Any]) -> None:
    nobody: Any = None  # nothing is sent
    with pytest.raises((ValueError, TypeError)):
        Run(Session(nobody), "http://h", fields)
    assert rb'"input":"\ud83d"' in Run(Session(nobody), "http://h", {"input": "\ud83d"})._content


@pytest.mark.parametrize("event", [{"a": float("nan")}, [float("-inf")], {"a": object()}])
async def test_what_is_no_json_is_refused_at_its_own_line(event: object) -> None:
    nobody: Any = None  # nothing is sent
    run = Run(Session(nobody), "http://h")
    await run.emit({"text": "\ud83d"})
    with pytest.raises((ValueError, TypeError)):
        await run.emit(event)
    await run.emit(1)
    assert run._waiting == [b'{"text":"\\ud83d"}', b"1"]
