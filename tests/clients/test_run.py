"""`Run`: an agent's events are in the log once and in order, and its run ends as it should, whatever happens."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvloop

from run_gateway import (
    Backoff,
    BlockingRun,
    ClientError,
    Fenced,
    GaveUp,
    NoSuchStream,
    Refused,
    Run,
    RunCancelled,
    RunEnded,
    Session,
    cancel,
    client,
    follow,
    get_run,
    list_runs,
    sharing,
    sync,
    token,
    wait,
)
from run_gateway.producer import MOST
from tests.machines import Machine, free_port
from tests.manual import ROOT, manual
from tests.tools.proxy import Proxy

EXAMPLES = ROOT / "gateway" / "client" / "examples"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries again sooner than people would want to."""
    monkeypatch.setattr(Backoff, "next", lambda self, floor=0.0: 0.02)


@asynccontextmanager
async def session() -> AsyncIterator[Session]:
    async with client() as http:
        yield Session(http)


async def events(machine: Machine, run: str) -> list[Any]:
    async with httpx.AsyncClient() as http:
        found: list[Any] = (await http.get(f"{machine.url}/runs/{run}")).json()
        return found


async def record(machine: Machine, run: str) -> dict[str, Any]:
    async with httpx.AsyncClient(timeout=60) as http:
        found: dict[str, Any] = (await http.get(f"{machine.url}/runs/{run}?meta&wait=50")).json()
        return found


def example(name: str, machine: Machine) -> str:
    """An example as it is written, for this Machine."""
    return (EXAMPLES / name).read_text().replace("http://127.0.0.1:8080", machine.url)


class Left:
    """Tasks and threads that were not there before."""

    def __init__(self) -> None:
        self._before = asyncio.all_tasks()

    @property
    def nothing(self) -> bool:
        threads = [thread for thread in threading.enumerate() if thread.name == "run_gateway"]
        return asyncio.all_tasks() <= self._before and not threads


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


# The manual


def test_the_manual_shows_the_examples_as_they_are() -> None:
    shown = set(re.findall(r"```python\n(.*?)```", manual("client"), re.DOTALL))
    assert shown == {path.read_text() for path in EXAMPLES.glob("*.py")}


async def test_the_recipe_for_langgraph_loses_and_repeats_nothing(database_url: str) -> None:
    async with Machine.start(database_url) as machine:
        names: dict[str, Any] = {}
        exec(example("graph.py", machine), names)
        await names["record"](Graph(machine), "why?", "r")
        *tokens, update, end = await events(machine, "r")
        assert tokens == [
            {"type": "messages", "data": [{"content": f"token {n}"}, {"langgraph_node": "think"}]} for n in range(100)
        ]
        assert update == {"type": "updates", "data": {"think": {"messages": [{"content": "why?"}]}}}
        assert end == {"type": "run_end", "isError": False}
        found = await record(machine, "r")
        assert (found["status"], found["workflowName"], found["input"]) == ("completed", "chat", "why?")


async def test_the_examples_do_what_they_say(database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with Machine.start(database_url) as machine:
        await asyncio.to_thread(exec, example("agent.py", machine), {})
        await asyncio.to_thread(exec, example("reader.py", machine), {})
        words = [f"{{'type': 'token', 'text': {word!r}}}\n" for word in ("It", "is", "done.")]
        end = "{'type': 'run_end', 'isError': False, 'result': {'words': 3}}\n"
        assert capsys.readouterr().out == "".join([*words, end])
        await asyncio.to_thread(exec, example("script.py", machine), {})
        assert capsys.readouterr().out == "completed 2\n"
        # Somebody imports, and has had enough: whoever steers runs tells it so.
        async with asyncio.timeout(120):
            names: dict[str, Any] = {"__name__": "steering"}
            run = Run(f"{machine.url}/runs/i", workflow="import")

            async def agent() -> None:
                async with run:
                    run.emit({"n": 1})
                    run.emit("enough")
                    await asyncio.Event().wait()

            importing = asyncio.create_task(agent())
            while not [each async for each in list_runs(machine.url, status="active")]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.to_thread(exec, example("steering.py", machine), names)
            with pytest.raises(RunCancelled):
                await importing
        assert capsys.readouterr().out == ("after that: {'type': 'run_end', 'isError': False, 'status': 'cancelled'}\n")


# The end of a run


async def test_how_a_run_ends(database_url: str) -> None:
    async with Machine.start(database_url) as machine, asyncio.timeout(120):
        left, emitted = Left(), asyncio.Event()

        async def agent(run_id: str, event: object, error: Exception | None = None) -> None:
            async with Run(f"{machine.url}/runs/{run_id}") as run:
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

        # A cancel interrupts even what emits nothing, and is no error.
        emitted.clear()
        cancelled = asyncio.create_task(agent("cancelled", 1))
        await emitted.wait()
        await cancel(f"{machine.url}/runs/cancelled", "the user has gone")
        with pytest.raises(RunCancelled):
            await cancelled
        found = await record(machine, "cancelled")
        assert (found["status"], found["isError"], "error" in found) == ("cancelled", False, False)
        assert (await events(machine, "cancelled"))[-1] == {"type": "run_end", "isError": False, "status": "cancelled"}
        assert [run.id async for run in list_runs(machine.url, status="cancelled")] == ["cancelled"]

        # A result is in the record, and what is none is refused where it stands.
        async with Run(f"{machine.url}/runs/completed", metadata={"user": "u1"}, input=[1.5]) as run:
            run.result = {"answer": 42}
            with pytest.raises(TypeError):
                run.result = object()
        found = await record(machine, "completed")
        assert (found["status"], found["result"], found["input"]) == ("completed", {"answer": 42}, [1.5])

        # One that has ended says so at the door.
        with pytest.raises(RunEnded, match="completed"):
            async with Run(f"{machine.url}/runs/completed", metadata={"user": "u1"}, input=[1.5]):
                pytest.fail("the block is not entered")
        with pytest.raises(RunEnded, match="cancelled"):
            async with Run(f"{machine.url}/runs/cancelled"):
                pytest.fail("the block is not entered")
        assert left.nothing


async def test_who_begins_a_run_again_takes_it_over(database_url: str) -> None:
    async with Machine.start(database_url) as machine, asyncio.timeout(120):
        wrote = asyncio.Event()

        async def agent(event: str) -> None:
            async with Run(f"{machine.url}/runs/r") as run:
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
        async with Run(f"{machine.url}/runs/r") as run:
            await run.emit("by the third")
        assert (await record(machine, "r"))["status"] == "completed"
        assert (await events(machine, "r"))[:-1] == ["by the first", "by the second", "by the third"]


async def test_events_that_come_up_during_a_request_go_together(database_url: str) -> None:
    most = {"GATEWAY_MAX_BATCH": str(MOST)}
    async with Machine.start(database_url, env=most) as machine, session() as http:
        async with Run(machine.url, session=http) as run:
            for number in range(5000):
                await run.emit(number)
        found = await events(machine, run.coordinates["runId"])
        metrics = (await http.http.get(f"{machine.url}/metrics")).text
    assert found[:-1] == list(range(5000))
    requests = re.search(r'^run_gateway_appends_total\{outcome="appended"\} (\d+)', metrics, re.MULTILINE)
    assert requests is not None and int(requests[1]) < 500


async def test_many_runs_of_one_process_survive_a_kill(database_url: str) -> None:
    """Their appends go together, and the Machine that they go to is killed in the middle."""
    count, each = 40, 60
    async with Machine.start(database_url) as a, Machine.start(database_url) as b, Proxy(a.url) as proxy:
        left, emitted = Left(), 0
        middle = asyncio.Event()

        async def agent(n: int) -> None:
            nonlocal emitted
            async with Run(f"{proxy.url}/runs/{n}", workflow="many") as run:
                for k in range(each):
                    await run.emit({"k": k})
                    emitted += 1
                    if emitted == count * each // 2:
                        middle.set()
                    await asyncio.sleep(0.01)

        async def reader(n: int) -> list[Any]:
            return [event async for event in follow(f"{proxy.url}/runs/{n}")]

        async def killer() -> None:
            await middle.wait()
            proxy.target = b.url
            await a.kill()

        async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
            agents = [tasks.create_task(agent(n)) for n in range(count)]
            tasks.create_task(killer())
            await middle.wait()
            readers = [tasks.create_task(reader(n)) for n in range(5)]
        assert all(task.done() for task in agents)
        wanted = [*[{"k": k} for k in range(each)], {"type": "run_end", "isError": False}]
        assert [task.result() for task in readers] == [wanted] * 5
        for n in range(count):
            assert await events(b, str(n)) == wanted
        async with httpx.AsyncClient() as http:
            metrics = (await http.get(f"{b.url}/metrics")).text
        together = re.search(r"^run_gateway_appends_together_sum (\d+)", metrics, re.MULTILINE)
        requests = re.search(r"^run_gateway_appends_together_count (\d+)", metrics, re.MULTILINE)
        assert together is not None and requests is not None and int(together[1]) > 2 * int(requests[1]) > 0
        assert left.nothing


# Where it is used


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_any_loop_will_do(loop: Callable[[], asyncio.AbstractEventLoop], gateway_url: str) -> None:
    async def main() -> list[Any]:
        left = Left()
        async with Run(gateway_url) as run:
            run.emit(1)  # also without being awaited
        found = [event async for event in follow(run.url)]
        assert left.nothing
        return found

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(main()) == [1, {"type": "run_end", "isError": False}]


async def test_code_without_a_loop_records_and_reads(database_url: str) -> None:
    """Also here, where a loop runs already, as in a notebook."""
    async with Machine.start(database_url) as machine:
        left = Left()
        with Run(machine.url, workflow="sync") as run:
            for n in range(3000):
                run.emit(n)
            run.flush()
            assert sync.get_run(run.url).status == "active"
            run.result = "done"
        assert list(follow(run.url))[:-1] == [*range(3000)]
        assert sync.wait(run.url, timeout=10).result == "done"
        assert [each.id for each in sync.list_runs(machine.url, workflow="sync", limit=5)] == [run.id]
        with pytest.raises(ZeroDivisionError), Run(f"{machine.url}/runs/failed") as failing:
            failing.emit(1 / 0)
        assert sync.get_run(failing.url).error["name"] == "ZeroDivisionError"
        with pytest.raises(RunEnded), Run(f"{machine.url}/runs/failed"):
            pytest.fail("the block is not entered")
        with pytest.raises(RunCancelled), Run(f"{machine.url}/runs/cancelled") as asked:
            _until_cancelled(asked)
        assert sync.get_run(asked.url).status == "cancelled"
        with pytest.raises(RunCancelled), Run(f"{machine.url}/runs/silent") as silent:
            _asked_to_stop(silent)
        assert sync.get_run(silent.url).status == "cancelled"
        assert left.nothing


def _until_cancelled(run: BlockingRun) -> None:
    sync.cancel(run.url)
    while True:
        run.emit(1)
        run._portal.call(asyncio.sleep(0.01))


def _asked_to_stop(run: BlockingRun) -> None:
    sync.cancel(run.url)
    while not run.cancelled:
        run._portal.call(asyncio.sleep(0.01))


async def test_threads_share_what_they_use(database_url: str) -> None:
    async with Machine.start(database_url) as machine:

        def agent(n: int) -> str:
            with Run(f"{machine.url}/runs/{n}") as run:
                for k in range(50):
                    run.emit(k)
            return run.url

        urls = await asyncio.gather(*(asyncio.to_thread(agent, n) for n in range(8)))
        for url in urls:
            assert [event async for event in follow(url)][:-1] == [*range(50)]


# What it says


@pytest.fixture
async def gateway_url(database_url: str) -> AsyncIterator[str]:
    async with Machine.start(database_url) as machine:
        yield machine.url


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        ("127.0.0.1:8080/runs/1", {}),
        (["http://h/runs/1"], {}),
        ("http://h/v1/stream/a", {}),
        ("http://h/runs/a/b", {}),
        ("http://h", {"metadata": "user=1"}),
        ("http://h", {"metadata": ["user"]}),
        ("http://h", {"workflow": ["chat"]}),
        ("http://h", {"producer": 7}),
        ("http://h", {"lease": 0}),
        ("http://h", {"lease": "30"}),
        ("http://h", {"input": float("nan")}),
        ("http://h", {"metadata": {"a": float("inf")}}),
        ("http://h", {"input": object()}),
    ],
)
def test_what_cannot_be_meant_is_refused_at_its_line(url: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Run(url, **arguments)


async def test_a_run_that_has_not_begun_says_so() -> None:
    run = Run("http://127.0.0.1:9/runs/1")
    for use in (lambda: run.emit(1), lambda: run.coordinates):
        with pytest.raises(ClientError, match="async with"):
            use()
    with pytest.raises(ClientError, match="async with"):
        await run.flush()


async def test_what_is_no_json_is_refused_at_its_own_line(gateway_url: str) -> None:
    async with Run(gateway_url, input={"text": "\ud83d"}) as run:
        run.emit({"text": "\ud83d"})
        for event in ({"a": float("nan")}, [float("-inf")], {"a": object()}):
            with pytest.raises((ValueError, TypeError)):
                run.emit(event)
        run.emit(1)
    assert [event async for event in follow(run.url)][:2] == [{"text": "\ud83d"}, 1]
    assert (await get_run(run.url)).input == {"text": "\ud83d"}


async def test_a_gateway_that_is_not_there_is_said_soon_and_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = Left()
    monkeypatch.setattr(sharing, "CONTACT", 2.0)
    url = f"http://127.0.0.1:{free_port()}/runs/1"
    with caplog.at_level(logging.WARNING, "run_gateway"):
        with pytest.raises(GaveUp, match="refused"):
            async with Run(url):
                pytest.fail("the block is not entered")
        with pytest.raises(GaveUp, match="refused"):
            await anext(aiter(follow(url)))
    assert len(caplog.records) == 2 and all("refused" in each.getMessage() for each in caplog.records)
    assert left.nothing


async def test_runs_are_looked_at_and_lent(database_url: str) -> None:
    key = "a-key-of-sixteen-letters"
    env = {"AUTH": "keys", "GATEWAY_KEYS": f"agent:read,write,control:{key}"}
    async with Machine.start(database_url, env=env) as machine:
        for n in range(3):
            async with Run(f"{machine.url}/runs/{n}", workflow="w", metadata={"n": n, "odd": n % 2 == 1}, token=key):
                pass
        found = [each async for each in list_runs(machine.url, workflow="w", metadata={"odd": False}, token=key)]
        assert [each.id for each in found] == ["2", "0"] and found[0].metadata == {"n": 2, "odd": False}
        assert found[0].ended and found[0].ended_at is not None and found[0].ended_at >= found[0].started_at
        lent = await token(f"{machine.url}/runs/1", ttl=60, token=key)
        assert (await get_run(f"{machine.url}/runs/1", token=lent)).id == "1"
        with pytest.raises(Refused, match="403"):
            await get_run(f"{machine.url}/runs/2", token=lent)
        with pytest.raises(NoSuchStream):
            await get_run(f"{machine.url}/runs/none", token=key)
        async with Run(f"{machine.url}/runs/open", token=key) as run:
            with pytest.raises(TimeoutError):
                await wait(run.url, timeout=0.1, token=key)
            with pytest.raises(TypeError):
                await anext(list_runs(machine.url, metadata="odd", token=key))  # type: ignore[arg-type]
        assert (await wait(run.url, timeout=10, token=key)).status == "completed"
