"""Runs whose server is gone end as Flue would have ended them; runs whose server still writes go on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.databases import Postgres
from tests.flue.app import App, event, stringify
from tests.servers import serving

RECORD = {
    "runId": "r", "workflowName": "ticker", "startedAt": "2026-11-23T01:49:29.448Z", "input": {"n": 3},
}  # fmt: skip


@pytest.fixture
async def app(postgres: Postgres) -> AsyncIterator[App]:
    """A Flue server over a database of its own."""
    async with postgres.database() as url, App.start(url, tables=True) as app:
        yield app


async def look(app: App, silence: float = 0, followed: Sequence[str] = ()) -> list[str]:
    """One Machine looks."""
    ended: list[str] = await app.connection.fetchval(
        "SELECT run_gateway.flue_end_silent($1, 100, $2)", silence, followed
    )
    return ended


async def events(app: App) -> list[dict[str, Any]]:
    rows = await app.connection.fetch("SELECT data FROM flue_event_stream_entries WHERE path = 'runs/r' ORDER BY seq")
    return [json.loads(row["data"]) for row in rows]


async def state(app: App) -> tuple[int, bool]:
    row = await app.connection.fetchrow("SELECT next_offset, closed FROM flue_event_streams WHERE path = 'runs/r'")
    assert row is not None
    return row["next_offset"], row["closed"]


async def record(app: App) -> dict[str, Any]:
    row = await app.connection.fetchrow("SELECT * FROM flue_runs WHERE run_id = 'r'")
    assert row is not None
    return {name: value for name, value in row.items() if value is not None}


async def test_a_silent_run_gets_flues_own_end(app: App) -> None:
    await app.admit(RECORD)
    await app.create_stream("r")
    await app.append("r", event("r", 0))
    assert await look(app) == []  # seen for the first time: its silence begins
    assert await look(app) == ["r"]
    assert await look(app) == []

    text = await app.connection.fetchval("SELECT data FROM flue_event_stream_entries WHERE path = 'runs/r' AND seq = 1")
    end = json.loads(text)
    stamp, duration = end["timestamp"], end["durationMs"]
    error = {"name": "RunAbandoned", "message": "No event came for 0 s: the server that ran it is gone."}
    # In Flue's order, and as JSON.stringify writes it.
    assert text == json.dumps(
        {
            "type": "run_end", "runId": "r", "result": None, "isError": True, "error": error, "durationMs": duration,
            "v": 3, "eventIndex": 1, "timestamp": stamp,
        },
        separators=(",", ":"),
    )  # fmt: skip
    assert len(stamp) == len("2026-11-23T01:49:29.448Z")
    started = datetime.fromisoformat(RECORD["startedAt"])  # type: ignore[arg-type]
    assert duration == round((datetime.fromisoformat(stamp) - started).total_seconds() * 1000)
    assert await state(app) == (2, True)
    ended = await record(app)
    assert (ended["status"], ended["is_error"], ended["ended_at"]) == ("errored", True, stamp)
    assert (ended["duration_ms"], json.loads(ended["error"])) == (duration, error)
    assert "result" not in ended
    with pytest.raises(RuntimeError, match="is closed"):  # its server comes back to life: as Flue itself would say
        await app.append("r", event("r", 2))


async def test_every_event_begins_the_silence_anew(app: App) -> None:
    await app.begin("r")
    for i in range(4):
        assert await look(app) == []
        await app.append("r", event("r", i))
    assert await look(app) == []
    assert await look(app, silence=3600) == []
    assert await look(app) == ["r"]


async def test_after_an_outage_every_run_has_its_time_again(app: App) -> None:
    await app.begin("r")
    await look(app)
    await app.connection.execute("UPDATE run_gateway.flue_silence SET since = since - interval '1 hour'")
    await app.connection.execute("INSERT INTO run_gateway.lease_looks (at, since) VALUES (now(), now())")
    assert await look(app, silence=60) == []
    await app.connection.execute("UPDATE run_gateway.lease_looks SET since = since - interval '61 seconds'")
    assert await look(app, silence=60) == ["r"]


async def test_outages_one_after_the_other_keep_no_orphan_for_ever(app: App) -> None:
    await app.connection.execute("INSERT INTO run_gateway.lease_looks (at, since) VALUES (now(), now())")
    await app.begin("r")
    await look(app)
    await app.connection.execute("UPDATE run_gateway.flue_silence SET since = since - interval '1 hour'")
    for looks, ended in ((179, []), (1, ["r"])):
        await app.connection.execute("UPDATE run_gateway.lease_looks SET looks = looks + $1", looks)
        assert await look(app, silence=60) == ended


async def test_nothing_is_ended_under_the_hands_of_its_server(app: App, postgres: Postgres) -> None:
    await app.begin("r")
    await look(app)
    database = await app.connection.fetchval("SELECT current_database()")
    async with App.start(postgres.dsn(database)) as machine:
        async with app.connection.transaction():  # an append under way holds the row
            await app.connection.execute(
                "UPDATE flue_event_streams SET next_offset = next_offset + 1 WHERE path = 'runs/r' AND NOT closed"
            )
            assert await look(machine) == []
            await app.connection.execute(
                "INSERT INTO flue_event_stream_entries (path, seq, data) VALUES ('runs/r', 0, '{}')"
            )
        assert await look(machine) == []  # it is newer than what was looked at
        assert await state(app) == (1, False)
        # What was decided on before an event came is judged again under the row's lock.
        assert not await machine.connection.fetchval("SELECT run_gateway.flue_end('r', 0, 0)")
        assert await state(app) == (1, False)


async def test_of_two_machines_one_looks(app: App, postgres: Postgres) -> None:
    await app.begin("r")
    await look(app)
    database = await app.connection.fetchval("SELECT current_database()")
    async with App.start(postgres.dsn(database)) as other:
        both = await asyncio.gather(*(look(machine) for machine in (app, other) for _ in range(1)))
    assert sorted(len(ended) for ended in both) in ([0, 1], [0, 0])
    assert len(await events(app)) <= 1


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("failed", [False, True])
async def test_a_server_that_died_after_the_last_event_is_finished_for(app: App, closed: bool, failed: bool) -> None:
    await app.admit(RECORD)
    await app.create_stream("r")
    end: dict[str, Any] = {"type": "run_end", "runId": "r"}
    end |= (
        {"result": None, "isError": True, "error": {"name": "Error", "message": "no"}}
        if failed
        else {"result": {"text": "a\0b \ud83d \\u0000 \\", "n": 1.5}, "isError": False}
    )
    end |= {"durationMs": 310, "v": 3, "eventIndex": 0, "timestamp": "2026-11-23T01:49:40.411Z"}
    await app.append("r", end)
    if closed:
        await app.close("r")
    await look(app)
    assert await look(app) == ["r"]
    assert await events(app) == [end]
    assert await state(app) == (1, True)
    ended = await record(app)
    assert (ended["status"], ended["is_error"]) == ("errored" if failed else "completed", failed)
    assert (ended["duration_ms"], ended["ended_at"]) == (310, "2026-11-23T01:49:40.411Z")
    assert ended["error" if failed else "result"] == stringify(end["error" if failed else "result"])
    assert ("result" if failed else "error") not in ended


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize("told", [False, True])
async def test_an_ended_run_left_open_is_closed_for_its_followers(app: App, failed: bool, told: bool) -> None:
    """Its server lost the database for a moment: `run_end` may not have been written, or `closed` alone."""
    await app.begin("r")
    await app.append("r", event("r", 3))  # events 0 to 2 did not come to be
    end: dict[str, Any] = {"type": "run_end", "runId": "r", "result": None if failed else {"text": "é\0"}}
    end |= {"isError": failed} | ({"error": {"name": "Error", "message": "no"}} if failed else {})
    end |= {"durationMs": 310, "v": 3, "eventIndex": 4, "timestamp": "2026-11-23T01:49:40.411Z"}
    if told:
        await app.append("r", end)
    status = "errored" if failed else "completed"
    await app.end({"runId": "r", "status": status, "endedAt": end["timestamp"]} | end)
    before = await record(app)
    for _ in range(2):
        assert await look(app) == [], "nobody waits for it"
    assert await look(app, followed=["r"]) == []
    assert await look(app, followed=["r"]) == ["r"]
    assert (await events(app))[1:] == [end]
    assert [stringify(each) for each in (await events(app))[1:]] == [stringify(end)]
    assert await state(app) == (2, True)
    assert await record(app) == before
    assert await look(app, followed=["r"]) == []


async def test_an_unreadable_event_keeps_no_other_run_from_its_end(app: App) -> None:
    await app.begin("r")
    await app.begin("odd")
    await app.append("odd", "{")
    await look(app)
    assert await look(app) == ["r"]


async def test_the_last_event_is_counted_on_from_the_one_before(app: App) -> None:
    await app.begin("r")
    await app.append("r", event("r", 7))
    await look(app)
    assert await look(app) == ["r"]
    assert [each["eventIndex"] for each in await events(app)] == [7, 8]


async def test_a_server_that_died_before_any_event_leaves_nothing_open(app: App) -> None:
    await app.admit(RECORD)
    await look(app)
    assert await look(app) == ["r"]
    assert [end["eventIndex"] for end in await events(app)] == [0]
    assert await state(app) == (1, True)


async def test_readers_of_an_abandoned_run_end(app: App, postgres: Postgres) -> None:
    await app.begin("r")
    await app.append("r", event("r", 0))
    url = postgres.dsn(await app.connection.fetchval("SELECT current_database()"))
    settings: dict[str, Any] = {"flue": True, "flue_workflows": "*", "flue_poll_interval": 0.05}
    with (
        serving(url, "direct", **settings, flue_orphan_after=0.2) as ends,
        serving(url, "direct", **settings) as other,
    ):
        raw = await asyncio.gather(*(m.get_raw("/runs/r?offset=-1&live=sse") for m in (ends, other)))
        assert all(b'"RunAbandoned"' in each and b'"streamClosed":true' in each for each in raw)
        async with httpx.AsyncClient(base_url=other.url) as http:
            meta = (await http.get("/runs/r?meta")).json()
    assert (meta["status"], meta["error"]["name"]) == ("errored", "RunAbandoned")
