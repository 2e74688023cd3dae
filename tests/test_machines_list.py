"""Live lists, and Machines that die: each run that is made or ends is told of once, wherever a reader goes on."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import httpx

from tests.event_source import read
from tests.machines import Machine

PATIENCE = 240
RUNS = 60


class ReaderOfTheList:
    """An EventSource for the list: goes on at the next Machine from the last id, until all runs have ended."""

    target = "/runs?live=sse"

    def __init__(self, *machines: Machine) -> None:
        self.heard: list[tuple[str, str]] = []
        self.lists = 0
        self.connections = 0
        self._machines = machines
        self._id = ""

    @property
    def done(self) -> bool:
        return len(self.heard) >= 2 * RUNS

    async def run(self) -> None:
        while not self.done:
            machine = self._machines[self.connections % len(self._machines)]
            self.connections += 1
            headers = {"last-event-id": self._id} if self._id else {}
            with suppress(httpx.HTTPError):
                async with (
                    httpx.AsyncClient(timeout=30) as http,
                    http.stream("GET", f"{machine.url}{self.target}", headers=headers) as response,
                ):
                    if response.status_code == 200:
                        await self._follow(response)
            await asyncio.sleep(0.02)

    async def _follow(self, response: httpx.Response) -> None:
        received = b""
        async for piece in response.aiter_raw():
            whole, ended, received = (received + piece).rpartition(b"\n\n")
            for event in read(whole + ended).events:
                self._hear(json.loads(event.data))
                self._id = event.last_event_id or self._id
            if self.done:
                return

    def _hear(self, data: Any) -> None:
        self.lists += "list" in data
        self.heard += [(each["change"], each["run"]["runId"]) for each in data.get("changes", [])]


async def make(machine: Machine, first: int, under_way: asyncio.Event) -> None:
    """Every second run: made, and ended a moment later."""
    async with httpx.AsyncClient(base_url=machine.url, timeout=30) as http:
        for n in range(first, RUNS, 2):
            assert (await http.post("/runs", json={"id": f"run-{n}"})).status_code == 201
            answer = await http.post(f"/runs/run-{n}", json={"type": "run_end"}, headers={"stream-closed": "true"})
            assert answer.status_code == 204
            if n >= RUNS // 3:
                under_way.set()
            await asyncio.sleep(0.01)


async def test_a_live_list_goes_on_when_a_machine_is_killed(database_url: str) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        Machine.start(database_url) as one,
        Machine.start(database_url) as dying,
        Machine.start(database_url) as other,
    ):
        readers = [ReaderOfTheList(dying, other), ReaderOfTheList(dying, one), ReaderOfTheList(other, dying)]
        under_way = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for reader in readers:
                tasks.create_task(reader.run())
            while any(not reader.lists for reader in readers):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            tasks.create_task(make(one, 0, under_way))
            tasks.create_task(make(other, 1, under_way))
            await under_way.wait()
            await dying.kill()
    for reader in readers:
        assert reader.lists == 1, "what came meanwhile was told as changes"
        assert len(reader.heard) == len(set(reader.heard)) == 2 * RUNS
        for n in range(RUNS):
            assert reader.heard.index(("created", f"run-{n}")) < reader.heard.index(("ended", f"run-{n}"))


class ReaderOfAll(ReaderOfTheList):
    """An EventSource for all runs, which goes on until each of them has ended."""

    target = "/v1/stream?live=sse&workflowName=all"

    def __init__(self, *machines: Machine) -> None:
        super().__init__(*machines)
        self.given: dict[str, list[int]] = {}
        self.ended: list[str] = []

    @property
    def done(self) -> bool:
        return len(self.ended) >= RUNS

    def _hear(self, data: Any) -> None:
        for part in data:
            assert "anew" not in part and "error" not in part
            self.given.setdefault(part["stream"], []).extend(event["n"] for event in part.get("events", []))
            if part.get("streamClosed"):
                self.ended.append(part["stream"])


async def speak(machine: Machine, first: int, under_way: asyncio.Event) -> None:
    """Every second run: made, with ten events, and ended."""
    async with httpx.AsyncClient(base_url=machine.url, timeout=30) as http:
        for n in range(first, RUNS, 2):
            assert (await http.post("/runs", json={"id": f"all-{n}", "workflowName": "all"})).status_code == 201
            for event in range(10):
                closing = {"stream-closed": "true"} if event == 9 else {}
                answer = await http.post(f"/runs/all-{n}", json={"n": event}, headers=closing)
                assert answer.status_code == 204
            if n >= RUNS // 3:
                under_way.set()


async def test_all_runs_of_a_list_go_on_when_a_machine_is_killed(database_url: str) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        Machine.start(database_url) as one,
        Machine.start(database_url) as dying,
        Machine.start(database_url) as other,
    ):
        readers = [ReaderOfAll(dying, other), ReaderOfAll(dying, one), ReaderOfAll(other, dying)]
        under_way = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for reader in readers:
                tasks.create_task(reader.run())
            tasks.create_task(speak(one, 0, under_way))
            tasks.create_task(speak(other, 1, under_way))
            await under_way.wait()
            await dying.kill()
    for reader in readers:
        assert sorted(reader.ended) == sorted(f"runs/all-{n}" for n in range(RUNS)), "each end once"
        assert all(given == list(range(10)) for given in reader.given.values())
