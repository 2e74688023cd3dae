"""A server has come that lacks the last events: all who go on from a position are told, and nobody is given others.

A standby that lagged is promoted, or a base backup and the archive are brought to a point in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from gateway.log.migrations import migrate
from tests.failover.servers import Server, Servers, servers, until
from tests.faults.network import distant
from tests.faults.scene import gateway

PATIENCE = 240
JSON = {"content-type": "application/json"}
LEASE = {"run-lease": "600"}
SUBSCRIPTION = "/v1/stream/__ds/subscriptions/s"
LOOKED = "SELECT l.at > s.since FROM run_gateway.lease_looks l, run_gateway.server s"
SILENT = """
    WITH due AS (UPDATE run_gateway.leases SET check_at = now() - interval '1 s')
    , looked AS (UPDATE run_gateway.lease_looks SET since = now() - interval '1 h')
    UPDATE run_gateway.streams SET lease_until = now() - interval '1 s' WHERE path = 'runs/silent'
"""
Loss = Callable[[], Awaitable[Server]]  # of the primary, and of all that was written after the preparation


async def lagging_standby(all_of_them: Servers, primary: Server) -> Callable[[], Awaitable[Loss]]:
    standby = await all_of_them.standby(primary)

    async def part() -> Loss:
        await standby.has_all_of(primary)
        await standby.stop_following()

        async def lose() -> Server:
            primary.kill()
            await standby.promote()
            return standby

        return lose

    return part


async def point_in_time(all_of_them: Servers, primary: Server) -> Callable[[], Awaitable[Loss]]:
    backup = await all_of_them.backup(primary)

    async def part() -> Loss:
        moment = await primary.fetchval("SELECT clock_timestamp()::text")

        async def lose() -> Server:
            await primary.archive()
            primary.kill()
            await all_of_them.restore(backup, moment)
            return backup

        return lose

    return part


class Caller:
    """Asks until the answer is another one than "try again"."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        while True:
            response = await self._http.request(method, path, **options)
            if response.status_code != 503:
                return response
            await asyncio.sleep(0.05)

    async def append(self, path: str, event: str, *, seq: int, epoch: int = 0, closes: bool = False) -> httpx.Response:
        claim = {"producer-id": "p", "producer-epoch": str(epoch), "producer-seq": str(seq)}
        closing = {"stream-closed": "true"} if closes else {}
        return await self.ask("POST", path, headers={**JSON, **claim, **closing}, content=f'{{"n":"{event}"}}')

    async def claim(self) -> dict[str, Any]:
        while True:
            response = await self.ask("POST", f"{SUBSCRIPTION}/claim", json={"worker": "w"})
            if response.status_code == 200:
                claim: dict[str, Any] = response.json()
                return claim
            assert response.status_code == 409, response.text
            await asyncio.sleep(0.05)

    async def ack(self, claim: dict[str, Any], offset: str, *, done: bool = False) -> httpx.Response:
        """Of run `a`."""
        body = {"wake_id": claim["wake_id"], "generation": claim["generation"], "done": done}
        return await self.ask(
            "POST", f"{SUBSCRIPTION}/ack", headers={"authorization": f"Bearer {claim['token']}"},
            json={**body, "acks": [{"stream": "runs/a", "offset": offset}]},
        )  # fmt: skip

    async def end_of(self, run: str) -> str:
        """The name of the error by which it ends; waits for that."""
        record = (await self.ask("GET", run, params={"meta": "", "wait": "60"})).json()
        assert record["status"] == "errored", record
        name: str = record["error"]["name"]
        return name

    async def names(self, path: str) -> list[str]:
        """Of all events, page by page."""
        found: list[str] = []
        offset = "-1"
        while True:
            page = await self.ask("GET", path, params={"offset": offset})
            found += [event["n"] for event in page.json()]
            offset = page.headers["stream-next-offset"]
            if "stream-up-to-date" in page.headers:
                return found


@pytest.mark.parametrize("prepare", [lagging_standby, point_in_time])
async def test_who_goes_on_from_what_was_lost_is_told(
    prepare: Callable[[Servers, Server], Awaitable[Callable[[], Awaitable[Loss]]]],
) -> None:
    async with asyncio.timeout(PATIENCE), servers() as all_of_them:
        primary = await all_of_them.primary(archived=prepare is point_in_time)
        await migrate(primary.url)
        part = await prepare(all_of_them, primary)
        async with (
            distant(primary.url) as (proxy, url),
            gateway(url, heartbeat=1) as running,
            httpx.AsyncClient(base_url=running.url, timeout=60) as http,
        ):
            caller = Caller(http)
            await caller.ask("PUT", "/v1/stream/wakes", headers=JSON)
            wanted = {"type": "pull-wake", "pattern": "runs/*", "wake_stream": "wakes", "lease_ttl_ms": 600_000}
            assert (await caller.ask("PUT", SUBSCRIPTION, json=wanted)).status_code == 201
            for run in ("a", "b", "leased", "silent"):
                assert (await caller.ask("PUT", f"/runs/{run}", headers={**JSON, **LEASE})).status_code == 201
            assert (await caller.append("/runs/b", "kept", seq=0)).is_success
            common = (await caller.append("/runs/a", "kept", seq=0)).headers["stream-next-offset"]
            claim = await caller.claim()
            assert (await caller.ack(claim, common)).status_code == 200

            lose = await part()
            lost = (await caller.append("/runs/a", "lost", seq=1)).headers["stream-next-offset"]
            assert (await caller.append("/runs/b", "lost", epoch=1, seq=0)).is_success
            assert (await caller.ack(claim, lost, done=True)).status_code == 200
            assert (await caller.append("/runs/leased", "lost", seq=0, closes=True)).is_success
            await until(primary, LOOKED)
            await primary.fetchval(SILENT)  # for longer than its lease, so that it is ended
            assert await caller.end_of("/runs/silent") == "ProducerLost"
            end = (await caller.ask("GET", "/runs/silent")).headers
            assert (await caller.ask("PUT", "/runs/new", headers=JSON)).status_code == 201
            server = await lose()
            proxy.target = f"tcp://127.0.0.1:{server.port}"
            proxy.cut()

            # Positions, by every way to name one.
            for params, headers in (
                ({"offset": lost}, {}),
                ({"offset": lost, "live": "long-poll"}, {}),
                ({"offset": lost, "live": "sse"}, {}),
                ({"offset": "-1", "live": "sse"}, {"last-event-id": lost}),
            ):
                told = await caller.ask("GET", "/runs/a", params=params, headers=headers)
                assert (told.status_code, told.headers["stream-next-offset"]) == (410, common), params
            # Producers: one that had taken the next step, and one that had taken over.
            gap = await caller.append("/runs/a", "late", seq=2)
            assert (gap.status_code, gap.headers["producer-expected-seq"]) == (409, "1")
            new = (await caller.append("/runs/a", "new", seq=1)).headers["stream-next-offset"]
            assert new > lost
            assert (await caller.append("/runs/b", "late", epoch=1, seq=1)).status_code == 400
            for _ in range(2):
                assert (await caller.append("/runs/b", "new", epoch=1, seq=0)).is_success
            assert (await caller.append("/runs/b", "late", epoch=0, seq=1)).status_code == 403
            # Runs: those that were there go on, two of them past ends that were lost, and keep their leases.
            for run in ("a", "b", "leased", "silent"):
                assert (await caller.ask("POST", f"/runs/{run}/heartbeat")).status_code == 204
                record = (await caller.ask("GET", f"/runs/{run}", params={"meta": ""})).json()
                assert (record["status"], record["lease"]) == ("active", 600)
            told = await caller.ask("GET", "/runs/silent", params={"offset": end["stream-next-offset"]})
            assert told.status_code == 410, "and not: closed"
            await until(server, LOOKED)  # after which no lease is given its time again
            await server.fetchval(SILENT)
            assert await caller.end_of("/runs/silent") == "ProducerLost"
            assert (await caller.append("/runs/silent", "late", seq=0)).status_code == 403
            assert (await caller.ask("GET", "/runs/leased", params={"meta": ""})).json()["status"] == "active"
            assert (await caller.ask("GET", "/runs/new")).status_code == 404
            # The worker still has its wake; what it acked is as lost as the event, and it is given the new one.
            for offset in (lost, f"{lost[:-1]}9"):
                assert (await caller.ack(claim, offset)).json()["error"]["code"] == "INVALID_OFFSET"
            assert (await caller.ack(claim, common, done=True)).status_code == 200
            again = await caller.claim()
            [work] = [stream for stream in again["streams"] if stream["path"] == "runs/a"]
            assert (work["acked_offset"], work["tail_offset"], work["has_pending"]) == (common, new, True)
            assert (await caller.ack(again, new, done=True)).status_code == 200

            assert await caller.names("/runs/a") == await caller.names("/runs/b") == ["kept", "new"]
            assert running.app._database.switches == 1
