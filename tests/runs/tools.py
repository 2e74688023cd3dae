"""What the tests of runs share."""

from __future__ import annotations

from typing import Any

import httpx

from gateway.log.database import Database
from tests.servers import Client

JSON = {"Content-Type": "application/json"}
CLOSED = {"Stream-Closed": "true"}


# Whoever looks at leases has done so for an hour.
LONG_WATCHED = (
    "INSERT INTO run_gateway.lease_looks (at, since) VALUES (now() - interval '1 s', now() - interval '1 h')"
    " ON CONFLICT (one) DO UPDATE SET since = excluded.since"
)


def at(position: int) -> str:
    return f"0000000000000000_{position:016}"


def producer(epoch: int, seq: int, id: str = "p") -> dict[str, str]:
    return JSON | {"Producer-Id": id, "Producer-Epoch": str(epoch), "Producer-Seq": str(seq)}


def refusal(response: httpx.Response) -> tuple[int, str]:
    """Status and type."""
    return response.status_code, response.json()["error"]["type"]


async def make(client: Client, id: str, **body: Any) -> httpx.Response:
    response = await client("POST", "/runs", json={"id": id, **body})
    assert response.status_code == 201, response.text
    return response


async def append(client: Client, id: str, event: Any, **headers: str) -> httpx.Response:
    return await client("POST", f"/runs/{id}", json=event, headers=headers)


async def meta(client: Client, id: str, more: str = "") -> dict[str, Any]:
    response = await client("GET", f"/runs/{id}?meta{more}")
    assert response.status_code == 200, response.text
    record: dict[str, Any] = response.json()
    return record


async def events(client: Client, path: str) -> list[Any]:
    response = await client("GET", path)
    assert response.status_code == 200, response.text
    found: list[Any] = response.json()
    return found


async def value(database: Database, query: str, *arguments: Any) -> Any:
    async with database.acquire() as connection:
        return await connection.fetchval(query, *arguments)


async def break_promise(database: Database, id: str) -> None:
    """Moves time: the run's lease has run out. What comes of it is the next look's matter."""
    await value(database, LONG_WATCHED)
    await value(
        database,
        "WITH s AS (UPDATE run_gateway.streams SET lease_until = clock_timestamp() - interval '1 ms'"
        " WHERE path = 'runs/' || $1 RETURNING id)"
        " UPDATE run_gateway.leases l SET check_at = clock_timestamp() - interval '1 ms' FROM s WHERE l.stream = s.id",
        id,
    )


async def lost(client: Client, id: str) -> dict[str, Any]:
    """The record of a run, once some Machine has ended it."""
    record = await meta(client, id, "&wait=60")
    assert record["status"] == "errored", record
    return record
