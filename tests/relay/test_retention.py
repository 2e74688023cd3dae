"""Recordings go some time after their end, with their keys; nothing else does."""

from __future__ import annotations

import asyncpg
import httpx

from tests.databases import Postgres
from tests.relay.client import answer, asking
from tests.relay.houses import house_of

FRAME = b"data: 1\n\n"
RETIRE = "SELECT run_gateway.retire_next_recordings(0, $1::text::interval, 50)"


async def test_recordings_go_after_their_end_and_nothing_else_does(postgres: Postgres) -> None:
    async with house_of(postgres, relay="ai-sdk:/api/chat", housekeeping_interval=3600.0) as house:
        connection = await asyncpg.connect(house.one.app._database._dsn)
        try:
            async with httpx.AsyncClient(base_url=house.one.url) as client:
                made = (await client.post("/runs", json={"id": "own"})).json()["streamUrl"]
                closed = await client.post(made, headers={"stream-closed": "true"})
                assert closed.status_code == 204
                for key in ("ended", "running"):
                    async with asking(house.one.url, "POST", "/api/chat", body={"id": key}) as response:
                        call = await house.begun(response, FRAME)
                        if key == "ended":
                            await call.end()
                            await response.ended()
                for keep, left in (("1 hour", 2), ("0", 1)):
                    assert await connection.fetchval(RETIRE, keep) == 0
                    assert await connection.fetchval("SELECT run_gateway.forget_next_keys('', 50)") == b""
                    for table in ("recordings", "recording_keys"):
                        assert await connection.fetchval(f"SELECT count(*) FROM run_gateway.{table}") == left
                assert (await answer(house.other.url, "GET", "/api/chat/ended/stream")).status == 204
                assert {run["runId"] for run in (await client.get("/runs")).json()["runs"]} > {"own"}
            async with asking(house.other.url, "GET", "/api/chat/running/stream") as back:
                await back.until(FRAME)
                await call.end()
                assert await back.ended() == FRAME
        finally:
            await connection.close()
