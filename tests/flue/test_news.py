"""How news of Flue's runs arrives: by triggers on its tables where they are, by polling where they are not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import asyncpg
import httpx
import pytest

from gateway.flue import schema
from gateway.flue.news import FLOOR, PREFIX, Notifications
from gateway.log.payload import parse_news
from gateway.protocol.batch import News
from tests.databases import Postgres
from tests.event_source import read
from tests.flue.app import App, event
from tests.log.rig import until_blocked
from tests.servers import Running, body_of, serving, until

NEVER = 3600.0  # seconds between looks of the sweep: what arrives has been told


@pytest.fixture
async def url(postgres: Postgres) -> AsyncIterator[str]:
    async with postgres.database() as url, App.start(url, tables=True):
        yield url


@pytest.fixture
async def connection(url: str) -> AsyncIterator[schema.Connection]:
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


async def test_attach_and_detach_may_be_repeated_and_leave_nothing(url: str, connection: schema.Connection) -> None:
    async def triggers() -> int:
        return int(await connection.fetchval("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'run_gateway%'"))

    for _ in range(2):
        await schema.attach(connection)
        assert await triggers() == 2
    for _ in range(2):
        await schema.detach(connection)
        assert await triggers() == 0
    left = "SELECT count(*) FROM pg_proc WHERE proname = ANY ($1)"
    assert await connection.fetchval(left, ["flue_tell", "flue_event", "flue_closed", "flue_batch"]) == 0


@pytest.mark.parametrize("change", [schema.attach, schema.detach])
async def test_flues_append_during_a_change_of_triggers_is_no_deadlock(
    url: str, connection: schema.Connection, change: Callable[[schema.Connection], Coroutine[None, None, None]]
) -> None:
    async with App.start(url) as app, App.start(url) as watching:
        await app.begin("r")
        await schema.attach(connection)
        async with app.connection.transaction():
            await app.connection.execute("UPDATE flue_event_streams SET next_offset = 1 WHERE path = 'runs/r'")
            changing = asyncio.create_task(change(connection))
            await until_blocked(watching.connection)
            await app.connection.execute("INSERT INTO flue_event_stream_entries VALUES ('runs/r', 0, '{}')")
        await changing
        assert await watching.connection.fetchval("SELECT count(*) FROM flue_event_stream_entries") == 1


async def test_what_the_triggers_tell_holds_the_event_where_it_fits(url: str, connection: schema.Connection) -> None:
    await schema.attach(connection)
    heard: list[News | None] = []
    listening = await asyncpg.connect(url)
    channel = await connection.fetchval("SELECT name FROM run_gateway.channel")
    await listening.add_listener(channel, lambda *args: heard.append(parse_news(str(args[3]))))
    async with App.start(url) as app:
        await app.begin("r")
        await app.append("r", {"i": 0})
        await app.append("r", {"pad": "é" * 5_000})
        await app.close("r")
        await app.close("r")  # as Flue does when it is told twice: no news
        await connection.execute("INSERT INTO flue_event_streams VALUES ('agents/a/1', 1)")
        await connection.execute("INSERT INTO flue_event_stream_entries VALUES ('agents/a/1', 0, '{}')")
        async with asyncio.timeout(60):
            while len(heard) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    await listening.close()
    assert heard == [
        News("\x1fruns/r", 1, 1, body=b'{"i":0}', heard=heard[0].heard if heard[0] else 0),
        News("\x1fruns/r", 2, 2, body=None, heard=heard[1].heard if heard[1] else 0),
        News("\x1fruns/r", 3, 2, closed=True, body=b"", heard=heard[2].heard if heard[2] else 0),
    ]


async def test_with_triggers_every_event_is_told_and_none_looked_for(url: str, connection: schema.Connection) -> None:
    await schema.attach(connection)
    with serving(url, "direct", flue=True, flue_workflows="*", sweep_interval=NEVER) as machine:
        await until(lambda: machine.app._log.listener.news == "listen")
        assert await _news(machine) == "triggers"
        async with App.start(url) as app:
            await app.begin("r")
            following = asyncio.create_task(machine.get_raw("/runs/r?offset=-1&live=sse"))
            await until(_followed(machine))
            reads = machine.app._flue._source.reads if machine.app._flue else 0
            for i in range(30):
                await app.append("r", event("r", i))
            await app.close("r")
            events = read(body_of(await following)).events
    assert [json.loads(each.data)[0]["eventIndex"] for each in events if each.type == "data"] == list(range(30))
    assert json.loads(events[-1].data)["streamClosed"]
    assert machine.app._flue is not None
    assert machine.app._flue._source.reads < reads + 10  # nearly each fitted into its notification


async def test_of_events_committed_together_one_is_told_and_all_found(url: str, connection: schema.Connection) -> None:
    await schema.attach(connection)
    with serving(url, "direct", flue=True, flue_workflows="*", sweep_interval=NEVER) as machine:
        await until(lambda: machine.app._log.listener.news == "listen")
        async with App.start(url) as app, App.start(url) as silent:
            await app.begin("told")
            await app.begin("found")
            following = asyncio.create_task(machine.get_raw("/runs/found?offset=-1&live=sse"))
            await until(_followed(machine))
            async with connection.transaction():
                await connection.fetchval("SELECT pg_advisory_xact_lock(1718383974)")  # somebody is about to notify
                await silent.append("found", event("found", 0))
                await silent.close("found")
            assert not following.done()
            await app.append("told", event("told", 0))
            assert b'"streamClosed":true' in await following


async def test_without_triggers_only_what_is_followed_is_polled_for(url: str) -> None:
    with serving(url, "direct", flue=True, flue_workflows="*", flue_poll_interval=0.05) as machine:
        assert await _news(machine) == "polling"
        async with App.start(url) as app:
            await app.begin("r")
            following = asyncio.create_task(machine.get_raw("/runs/r?offset=-1&live=sse"))
            await until(_followed(machine))
            await app.append("r", event("r", 0))
            await app.close("r")
            events = read(body_of(await following)).events
        assert [json.loads(each.data)[0]["eventIndex"] for each in events if each.type == "data"] == [0]
        assert json.loads(events[-1].data)["streamClosed"]  # in one look with the event, or in one of its own
        assert machine.app._flue is not None
        assert not machine.app._flue.hub.tails


async def test_triggers_that_come_and_go_are_noticed(
    url: str, connection: schema.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.flue.news.INTERVAL", 0.05)
    with serving(url, "direct", flue=True, flue_workflows="*") as machine:
        await until(lambda: machine.app._log.listener.news == "listen")
        await schema.attach(connection)
        await until(lambda: machine.app._flue is not None and machine.app._flue.news == "triggers")
        await schema.detach(connection)
        await until(lambda: machine.app._flue is not None and machine.app._flue.news == "polling")


async def test_a_gateways_run_of_the_same_name_hears_no_flue_news(url: str, connection: schema.Connection) -> None:
    """Should an app make a run whose id was taken here before, then neither shows the other's events."""
    await schema.attach(connection)
    with serving(url, "direct", flue=True, flue_workflows="*") as machine:
        await until(lambda: machine.app._log.listener.news == "listen")
        async with httpx.AsyncClient(base_url=machine.url) as http:
            assert (await http.put("/runs/r", headers={"content-type": "application/json"})).status_code == 201
            following = asyncio.create_task(machine.get_raw("/v1/stream/runs/r?offset=-1&live=sse"))
            await until(lambda: "runs/r" in machine.app._hub.tails)
            async with App.start(url) as app:
                await app.begin("r")
                await app.append("r", event("r", 0))
            assert (await http.post("/runs/r", json={"own": True})).status_code == 204
            assert (await http.post("/runs/r", headers={"stream-closed": "true"})).status_code == 204
            events = read(body_of(await following)).events
    assert [each.data for each in events if each.type == "data"] == ['[{"own":true}]']


def _followed(machine: Running) -> Callable[[], bool]:
    def followed() -> bool:
        assert machine.app._flue is not None
        return any(tail.direct for tail in machine.app._flue.hub.tails.values())

    return followed


async def _news(machine: Running) -> str:
    async with httpx.AsyncClient(base_url=machine.url) as http:
        return str((await http.get("/ready")).json()["flue"])


async def test_however_much_is_told_looks_at_all_tails_are_few() -> None:
    looks: list[None] = []
    hub = SimpleNamespace(tails={"r": None}, ring=lambda _: None, look_again=lambda: looks.append(None))
    told = Notifications(cast("Any", hub))

    def hear(many: int) -> asyncio.TimerHandle:
        for n in range(many):
            told.heard(News(f"{PREFIX}r", n + 1, n + 1, body=b"{}"))
        assert told._look is not None
        return told._look

    first = hear(1_000)
    assert hear(1_000) is first, "one look is due, and no more"
    async with asyncio.timeout(60):
        while len(looks) < 3:
            await asyncio.sleep(0)
            assert hear(1).when() >= told._looked_at + FLOOR
    hear(1).cancel()
