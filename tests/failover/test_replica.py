"""A replica near a Machine lags, is cut off, is promoted: it costs latency, and nobody is shown what is behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from gateway.log.migrations import migrate
from gateway.log.near import Near
from tests.cli.commands import command
from tests.failover.servers import Server, servers, until
from tests.faults.network import distant
from tests.faults.scene import gateway, traffic
from tests.log.rig import opened
from tests.servers import Running
from tests.tools.proxy import Proxy

PATIENCE = 240
JSON = {"content-type": "application/json"}


def near_of(running: Running) -> Near:
    near = running.app._log.near
    assert near is not None, "the setting says where it is"
    return near


async def used(running: Running) -> None:
    """Returns when the replica has everything, and is asked."""
    near = near_of(running)
    while not (near.replica.near and near.replica.current and near.replica.watermarks.none):  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def unused(running: Running) -> None:
    """Returns when the replica is not asked any more."""
    while near_of(running).replica.near:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def told_by_check(primary: Server, replica: Server) -> str:
    """What `run-gateway check` says of the replica."""
    ended = await command("check", DATABASE_URL=primary.url, READ_DATABASE_URL=replica.url)
    [told] = [line for line in ended.out.splitlines() if str(replica.port) in line]
    return told


@dataclass
class Caller:
    """Asks a Machine, and knows where it has read the answer."""

    http: httpx.AsyncClient
    near: Near

    async def __call__(self, method: str, path: str, at: str | None = None, **more: Any) -> httpx.Response:
        """`at`: where it has to be read."""
        before = self.near.reads.copy()
        answer = await self.http.request(method, path, **more)
        if at is not None:
            assert +(self.near.reads - before) == {at: 1}, f"{method} {path}"
        return answer

    async def post(self, path: str, *events: int, **headers: str) -> str:
        """The offset after it."""
        content = str(list(events)).encode()
        answer = await self("POST", path, headers={**JSON, **{k.replace("_", "-"): v for k, v in headers.items()}},
                            content=content if events else b"")  # fmt: skip
        assert answer.is_success, answer.text
        offset: str = answer.headers["stream-next-offset"]
        return offset


@asynccontextmanager
async def replicated(**settings: Any) -> AsyncIterator[tuple[Server, Server, Proxy, Running, Caller]]:
    """A primary, its replica and the way to that, a Machine near it, and who asks it."""
    async with asyncio.timeout(PATIENCE), servers() as all_of_them:
        primary = await all_of_them.primary()
        await migrate(primary.url)
        standby = await all_of_them.standby(primary)
        async with (
            distant(standby.url) as (proxy, near_url),
            gateway(primary.url, heartbeat=1, read_database_url=near_url, **settings) as running,
            httpx.AsyncClient(base_url=running.url, timeout=60) as http,
        ):
            await used(running)
            yield primary, standby, proxy, running, Caller(http, near_of(running))


async def test_a_replica_shows_what_it_has_and_nothing_behind() -> None:
    async with replicated() as (primary, standby, _, running, ask):
        for run in ("ended", "open", "doomed"):
            assert (await ask("POST", "/runs", json={"id": run})).status_code == 201
            await ask.post(f"/runs/{run}", 1, 2)
        await ask.post("/runs/ended", 3, stream_closed="true")
        assert (await ask("PUT", "/v1/stream/short", headers={**JSON, "stream-ttl": "60"})).status_code == 201
        await standby.has_all_of(primary)
        await used(running)
        assert "takes no writes, and has all within" in await told_by_check(primary, standby)

        there = "replica"
        assert (await ask("GET", "/runs/ended", there)).json() == [1, 2, 3]
        assert (await ask("GET", "/runs/open?tail=1", there)).json() == [2]
        page = await ask("GET", "/runs/open", there)
        assert page.headers["stream-up-to-date"] == "true"
        offset = page.headers["stream-next-offset"]
        sse = await ask("GET", "/runs/ended?offset=-1&live=sse", there)
        assert '"streamClosed":true' in sse.text.replace(" ", "")
        assert (await ask("GET", "/runs/ended?meta", there)).json()["status"] == "completed"
        listed = await ask("GET", "/runs", there)
        assert {run["runId"] for run in listed.json()["runs"]} == {"ended", "open", "doomed"}
        # What is not there, what a read prolongs, and what its reader knows more of.
        here = "primary"
        assert (await ask("GET", "/runs/nobody", here)).status_code == 404
        assert (await ask("GET", "/runs/nobody?meta", here)).status_code == 404
        assert (await ask("GET", "/v1/stream/short", here)).json() == []
        more = {"stream-next-offset": "0000000000000000_0000000000000009"}
        for _ in range(9):  # a look between the two shows that the replica has all there is: then it may be read
            before = ask.near.reads[here]
            assert (await ask("GET", "/runs/open", headers=more)).json() == [1, 2]
            if ask.near.reads[here] > before:
                break
        assert ask.near.reads[here] > before
        assert (await ask("GET", f"/runs/open?offset={offset[:-1]}9", here)).status_code == 410
        refused = await ask("GET", "/runs/open", headers={"stream-next-offset": "now"})
        assert refused.status_code == 400

        await used(running)
        await standby.fetchval("SELECT pg_wal_replay_pause()")
        await until(standby, "SELECT pg_get_wal_replay_pause_state() = 'paused'")
        await ask.post("/runs/open", 3)
        assert (await ask("GET", f"/runs/open?offset={offset}", here)).json() == [3]
        assert (await ask("GET", "/runs/ended", there)).json() == [1, 2, 3]
        assert (await ask("DELETE", "/runs/doomed")).status_code == 204
        assert (await ask("GET", "/runs/doomed", here)).status_code == 404
        assert (await ask("GET", "/runs/doomed?meta", here)).status_code == 404
        assert (await ask("PUT", "/runs/doomed", headers=JSON)).status_code == 201
        assert (await ask("GET", "/runs/doomed", here)).json() == [], "another one, which holds nothing"
        assert (await ask("POST", "/runs/open/cancel")).status_code == 202
        assert "cancelRequestedAt" in (await ask("GET", "/runs/open?meta", here)).json()
        await ask.post("/runs/open", stream_closed="true")
        assert (await ask("GET", "/runs/open?meta", here)).json()["status"] != "active"
        assert (await ask("GET", f"/runs/open?offset={offset}", here)).headers["stream-closed"] == "true"
        [doomed] = [run for run in (await ask("GET", "/runs", here)).json()["runs"] if run["runId"] == "doomed"]
        assert doomed["status"] == "active"

        await standby.fetchval("SELECT pg_wal_replay_resume()")
        await used(running)
        assert (await ask("GET", "/runs/open", there)).json() == [1, 2, 3]
        assert (await ask("GET", "/runs/doomed", there)).json() == []


async def test_a_list_waits_for_its_replica_to_catch_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right after a run was made, as while many are: the replica has it a moment later, without an ocean in between."""
    monkeypatch.setattr("gateway.log.replica.CATCH_UP", 60.0)
    async with replicated() as (_, standby, _proxy, running, ask):
        for run in ("first", "second"):
            assert (await ask("POST", "/runs", json={"id": run})).status_code == 201
            assert {"runId": run}.items() <= (await ask("GET", "/runs", "replica")).json()["runs"][0].items()
        asked = asyncio.Event()
        caught_up = ask.near.replica.catch_up

        async def catch_up(tenant: str) -> None:
            asked.set()
            await caught_up(tenant)

        monkeypatch.setattr(ask.near.replica, "catch_up", catch_up)
        await used(running)
        await standby.fetchval("SELECT pg_wal_replay_pause()")
        await until(standby, "SELECT pg_get_wal_replay_pause_state() = 'paused'")
        assert (await ask("POST", "/runs", json={"id": "third"})).status_code == 201
        listed = asyncio.create_task(ask("GET", "/runs", "replica"))
        await asked.wait()
        await standby.fetchval("SELECT pg_wal_replay_resume()")
        assert [run["runId"] for run in (await listed).json()["runs"]] == ["third", "second", "first"]

        monkeypatch.setattr("gateway.log.replica.CATCH_UP", 0.05)
        await used(running)
        await standby.fetchval("SELECT pg_wal_replay_pause()")
        await until(standby, "SELECT pg_get_wal_replay_pause_state() = 'paused'")
        assert (await ask("POST", "/runs", json={"id": "fourth"})).status_code == 201
        listing = await ask("GET", "/runs", "primary")
        assert listing.json()["runs"][0]["runId"] == "fourth", "it does not wait for ever"


async def test_a_replica_that_fails_costs_its_readers_nothing() -> None:
    """Of a writer at one Machine, and readers of all modes at two of them, one near the replica."""
    async with replicated() as (primary, standby, proxy, running, ask):
        assert (await ask("PUT", "/runs/ended", headers=JSON)).status_code == 201
        await ask.post("/runs/ended", 1, stream_closed="true")
        async with (
            gateway(primary.url, heartbeat=1) as other,
            traffic([other.url], [running.url, other.url]) as scene,
        ):
            await standby.fetchval("SELECT pg_wal_replay_pause()")
            await scene.goes_on(30)
            await standby.fetchval("SELECT pg_wal_replay_resume()")
            await scene.goes_on(10)
            for _ in range(5):
                proxy.cut()
                await scene.goes_on(5)
            with proxy.silence():
                await unused(running)
                await scene.goes_on(20)
            proxy.cut()
            while not near_of(running).replica.near:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await scene.goes_on(10)
            standby.kill()
            await unused(running)
            await scene.goes_on(10)
            await standby.start()
            while not near_of(running).replica.near:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            before = near_of(running).reads["replica"]
            while near_of(running).reads["replica"] == before:
                await scene.goes_on(1)

            # Promoted, and written to by somebody who takes it for the log.
            await standby.promote()
            async with opened(standby.url) as strange:
                await strange.append("runs/run-1", b"666")
                await strange.lifecycle.delete("runs/ended")
            await unused(running)
            await scene.goes_on(20)
            assert (await ask("GET", "/runs/ended")).json() == [1]
        assert "has another log" in await told_by_check(primary, standby)
