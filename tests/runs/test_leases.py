"""Leases: a run whose producer has broken its promise is ended, by some Machine, once, for everybody."""

from __future__ import annotations

import asyncio
import random
from typing import Any
from uuid import uuid4

import pytest

from gateway.log.appends import Appended
from gateway.log.database import Database
from gateway.protocol import errors
from gateway.protocol.append import AppendRequest, Producer
from gateway.runs.store import Store
from tests.log.rig import JSON as JSON_TYPE
from tests.log.rig import Log, connected, opened
from tests.runs.tools import (
    CLOSED,
    JSON,
    LONG_WATCHED,
    append,
    at,
    break_promise,
    events,
    lost,
    make,
    meta,
    producer,
    refusal,
    value,
)
from tests.servers import Client, following, last_control, payloads

LEASE = (
    "SELECT {} FROM run_gateway.streams s LEFT JOIN run_gateway.leases l ON l.stream = s.id"
    " WHERE s.path = 'runs/' || $1"
)
LOST = {"name": "ProducerLost", "message": "Its producer gave no sign of life within its lease of 5 s."}


async def test_a_run_out_lease_ends_the_run_for_all_readers_everywhere(
    a: Client, b: Client, id: str, database: Database
) -> None:
    await make(a, id, lease=5)
    await append(a, id, "token", **producer(0, 0))
    url = f"/runs/{id}?offset=-1&live=sse"
    async with (
        following(a, url) as here,
        following(b, url) as there,
        following(b, f"/runs/{id}/control?offset=-1&live=sse") as back,
    ):
        waiting = [asyncio.create_task(meta(client, id, "&wait=60")) for client in (a, b)]
        polling = asyncio.create_task(long_poll(b, id, at(1)))
        await break_promise(database, id)
        for reader in (here, there):
            reading = await reader.end()
            token, end = payloads(reading)
            assert (token, end["type"], end["runId"], end["isError"]) == ("token", "run_end", id, True)
            assert end["error"] == LOST
            assert last_control(reading) == {"streamNextOffset": at(2), "streamClosed": True}
        assert last_control(await back.end()) == {"streamNextOffset": at(0), "streamClosed": True}
        assert await polling == [end]
        for record in await asyncio.gather(*waiting):
            assert (record["status"], record["isError"], record["error"]) == ("errored", True, end["error"])
            assert "result" not in record
    assert await value(database, LEASE.format("l.check_at"), id) is None, "nobody looks at it any more"
    counted = [
        float(line.rpartition(" ")[2])
        for client in (a, b)
        for line in (await client("GET", "/metrics")).text.splitlines()
        if line.startswith("run_gateway_lost_runs_total")
    ]
    assert sum(counted) >= 1


async def long_poll(client: Client, id: str, offset: str) -> Any:
    while True:
        answer = await client("GET", f"/runs/{id}?offset={offset}&live=long-poll")
        if answer.status_code == 200:
            assert answer.headers["stream-closed"] == "true"
            return answer.json()


async def test_a_producer_that_comes_back_finds_403_with_the_reason(
    a: Client, b: Client, id: str, database: Database
) -> None:
    await make(a, id, lease=5)
    await append(a, id, "token", **producer(3, 0))
    await break_promise(database, id)
    await lost(b, id)
    for client in (a, b):
        for headers in (producer(3, 1), producer(3, 0), producer(3, 1) | CLOSED, producer(2, 0), JSON):
            answer = await append(client, id, "late", **headers)
            assert refusal(answer) == (403, "producer_lost"), headers
            assert (answer.headers["stream-closed"], answer.headers["stream-next-offset"]) == ("true", at(2))
        assert refusal(await client("POST", f"/runs/{id}/heartbeat")) == (403, "producer_lost")
        # What takes over from a stale epoch is no zombie, and is told that there is nothing to take over any more.
        assert refusal(await append(client, id, "late", **producer(5, 0))) == (409, "stream_closed")
        for headers in (producer(0, 0, "q"), producer(7, 0, "q") | CLOSED):  # one whose first append came too late
            answer = await append(client, id, "late", **headers)
            assert refusal(answer) == (403, "producer_lost"), headers
            assert "producer-epoch" not in answer.headers
    assert len(await events(a, f"/runs/{id}")) == 2


async def test_each_sign_of_life_moves_the_deadline(a: Client, b: Client, id: str, database: Database) -> None:
    await make(a, id, lease=60)

    async def moved() -> bool:
        moved = await value(database, LEASE.format("s.lease_until > clock_timestamp() + interval '50 s'"), id)
        await value(database, "UPDATE run_gateway.streams SET lease_until = now() WHERE path = 'runs/' || $1", id)
        return bool(moved)

    assert await moved()
    for client in (a, b):
        await append(client, id, 1)
        assert await moved()
        await append(client, id, 2, **producer(0, 0, id=client.url))
        assert await moved()
        assert (await client("POST", f"/runs/{id}/heartbeat")).status_code == 204
        assert await moved()
        await events(client, f"/runs/{id}")
        await meta(client, id)
        assert refusal(await append(client, id, 2, **producer(0, 5, id=client.url))) == (409, "producer_sequence_gap")
        assert not await moved(), "neither reading nor what is refused is a sign of life"
        await value(database, "SELECT run_gateway.touch(ARRAY['runs/' || $1])", id)
    batches = await asyncio.gather(*(append(b, id, n) for n in range(20)))
    assert {answer.status_code for answer in batches} == {204}
    assert await moved()
    assert (await meta(a, id))["lease"] == 60


async def test_a_lease_comes_with_whatever_is_written(a: Client, b: Client, id: str, database: Database) -> None:
    async def is_leased(id: str, lease: int, check: int) -> bool:
        """For so many seconds, and looked at in about so many."""
        left = "s.lease::text || ' ' || extract(epoch FROM l.check_at - clock_timestamp())"
        told, left = (await value(database, LEASE.format(left), id)).split()
        return int(told) == lease and check - 50 < float(left) <= check

    await a("PUT", f"/runs/{id}", headers=JSON | {"Run-Lease": "600"})
    assert await is_leased(id, 600, 600)
    await append(b, id, 1, **{"Run-Lease": "300"})
    assert await is_leased(id, 300, 300), "a shorter one is looked at sooner"
    await append(b, id, 1, **{"Run-Lease": "900"})
    assert await is_leased(id, 900, 300), "a longer one is seen to when the time has come"
    await a("POST", f"/runs/{id}/heartbeat", headers={"Run-Lease": "200"})
    assert await is_leased(id, 200, 200)
    await append(b, f"{id}", {"type": "run_end"}, **CLOSED)
    assert await value(database, LEASE.format("l.check_at"), id) is None
    await a("PUT", f"/runs/{id}-2", headers=JSON)
    await asyncio.gather(*(append(a, f"{id}-2", 1, **{"Run-Lease": "400"}) for _ in range(10)))
    assert await is_leased(f"{id}-2", 400, 400)
    for wrong in ("0", "3601", "1.5", "x", ""):
        assert refusal(await append(a, f"{id}-2", 1, **{"Run-Lease": wrong})) == (400, "invalid_request")
    assert refusal(await a("PUT", f"/v1/stream/{id}", headers={"Run-Lease": "5"})) == (400, "invalid_request")
    assert refusal(await a("POST", f"/runs/{id}-2/heartbeat", content=b"x")) == (400, "invalid_request")


async def test_a_new_producer_takes_a_run_over_before_its_end(a: Client, b: Client, id: str) -> None:
    await make(a, id, lease=60)
    await append(a, id, "old", **producer(0, 0))
    assert (await append(b, id, "new", **producer(1, 0))).status_code == 200
    assert refusal(await append(a, id, "late", **producer(0, 1))) == (403, "stale_epoch")
    beat = f"/runs/{id}/heartbeat"
    for client in (a, b):
        assert refusal(await client("POST", beat, headers=epoch(0))) == (403, "stale_epoch"), "it keeps nothing alive"
        assert (await client("POST", beat, headers=epoch(1))).status_code == 204
        assert refusal(await client("POST", beat, headers={"Producer-Id": "p"})) == (400, "invalid_request")
    answers = await asyncio.gather(*(b("POST", beat, headers=epoch(n % 2)) for n in range(20)))
    assert [answer.status_code for answer in answers] == [403, 204] * 10
    assert (await append(b, id, "newer", **producer(1, 1))).status_code == 200, "a heartbeat counts as no request"
    assert (await meta(a, id))["status"] == "active"
    assert await events(b, f"/runs/{id}") == ["old", "new", "newer"]


def epoch(epoch: int) -> dict[str, str]:
    return {"Producer-Id": "p", "Producer-Epoch": str(epoch)}


async def test_the_last_event_can_be_chosen(a: Client, b: Client, id: str, database: Database) -> None:
    last = {"type": "failed", "why": ["the producer\nwent away"]}
    await make(a, id, lease=5, lostEvent=last)
    await make(a, f"{id}-end", lease=5, lostEvent={"type": "run_end", "isError": True, "error": "mine"})
    await make(a, f"{id}-text", lease=5, contentType="text/plain")
    for name in (id, f"{id}-end", f"{id}-text"):
        await break_promise(database, name)
    assert (await lost(b, id))["error"]["name"] == "ProducerLost"
    assert await events(b, f"/runs/{id}") == [last]
    assert (await lost(b, f"{id}-end"))["error"] == "mine"
    assert (await lost(b, f"{id}-text"))["error"]["name"] == "ProducerLost"
    text = await b("GET", f"/runs/{id}-text")
    assert (text.content, text.headers["stream-closed"]) == (b"", "true"), "JSON has no place in a text"


async def test_a_run_without_a_lease_is_left_alone(a: Client, b: Client, id: str, database: Database) -> None:
    await make(a, id)
    assert (await b("POST", f"/runs/{id}/heartbeat")).status_code == 204
    await make(a, f"{id}-2", lease=1)
    await lost(b, f"{id}-2")
    assert (await meta(b, id))["status"] == "active"
    assert refusal(await b("POST", f"/runs/{id}-3/heartbeat")) == (404, "stream_not_found")
    await a("POST", f"/runs/{id}", headers=CLOSED)
    assert refusal(await b("POST", f"/runs/{id}/heartbeat")) == (409, "stream_closed")


# The look, without Machines: stores that are told apart by their names.


async def leased(log: Log, *paths: str, seconds: int = 60) -> None:
    for path in paths:
        await log.create(path)
        await log.writer.append(AppendRequest(path, None, [], lease=seconds))


async def due(log: Log, *, broken: bool, path: str = "runs/%") -> None:
    """Moves time: the look is due, and the promise is `broken` or not."""
    async with log.database.acquire() as connection:
        await connection.execute("UPDATE run_gateway.leases SET check_at = now() - interval '1 s'")
        if broken:
            await connection.execute(
                "UPDATE run_gateway.streams SET lease_until = now() - interval '1 s' WHERE path LIKE $1", path
            )
        await connection.execute(LONG_WATCHED)


async def test_one_machine_looks_for_all_and_another_takes_over(database_url: str) -> None:
    async with opened(database_url) as log:
        first, second = (Store(log.database, machine=name) for name in ("m1", "m2"))
        look = await first.end_lost(10, again=False)
        assert (look.more, look.wait) == (False, 1)
        for n in range(10):  # on a machine that takes a second for this, it is its turn
            await leased(log, f"runs/{n}")
            await due(log, broken=True)
            await first.end_lost(0, again=True)
            look = await second.end_lost(10, again=False)
            if not look.ended:
                break
        assert look.ended == [], "it is not its turn"
        assert 0.5 < look.wait <= 1.5
        async with log.database.acquire() as connection:
            await connection.execute(
                "UPDATE run_gateway.lease_looks SET at = clock_timestamp() - interval '1 s'"
            )  # m1 has died
        look = await second.end_lost(10, again=False)
        assert [news.path for news in look.ended] == [f"runs/{n}"]
        assert look.wait == 1


async def test_while_nobody_looks_no_lease_runs_out(database_url: str) -> None:
    """No Machine was there, or no database: that a producer was not heard says nothing of it."""
    async with opened(database_url) as log, connected(database_url) as look:
        store = Store(log.database, machine="m1")
        await leased(log, "runs/a")
        for gap in ("4 s", "1 h", "-4 s"):  # the last is a failover to a server whose clock is behind
            await due(log, broken=True)
            await look.execute("UPDATE run_gateway.lease_looks SET at = now() - $1::text::interval", gap)
            assert (await store.end_lost(10, again=False)).ended == []
            left = "SELECT extract(epoch FROM check_at - now()) FROM run_gateway.leases"
            assert 30 < await look.fetchval(left) <= 60, "it has its whole time again"
            await look.execute("UPDATE run_gateway.leases SET check_at = now()")
            assert (await store.end_lost(10, again=True)).ended == []
        await due(log, broken=True)
        assert [news.path for news in (await store.end_lost(10, again=True)).ended] == ["runs/a"]


async def test_after_a_takeover_each_lease_has_its_whole_time_again(database_url: str) -> None:
    """However soon there is a look: the other server may have heard of a producer, and this one has not."""
    async with opened(database_url) as log, connected(database_url) as look:
        store = Store(log.database, machine="m1")
        await leased(log, "runs/a")
        await due(log, broken=True)
        await look.execute("UPDATE run_gateway.server SET since = clock_timestamp() - interval '0.5 s'")
        assert (await store.end_lost(10, again=False)).ended == []
        assert await look.fetchval("SELECT check_at > now() + interval '30 s' FROM run_gateway.leases")


async def test_breaks_one_after_the_other_put_no_lease_off_for_ever(database_url: str) -> None:
    """Each look is the first after a break: three for each second of a lease are enough, and count from its end."""
    async with opened(database_url) as log, connected(database_url) as look:
        store = Store(log.database, machine="m1")
        await leased(log, "runs/dead", "runs/heard", seconds=5)
        for n in range(16):
            if n in (0, 9):
                await due(log, broken=True, path="runs/heard" if n else "runs/%")
            await look.execute("UPDATE run_gateway.leases SET check_at = now() - interval '1 s'")
            await look.execute("UPDATE run_gateway.lease_looks SET at = now() - interval '4 s'")
            ended = [news.path for news in (await store.end_lost(10, again=False)).ended]
            assert ended == (["runs/dead"] if n == 15 else [])


async def test_a_clock_that_is_set_back_delays_no_end(database_url: str) -> None:
    """A producer that shows signs of life, and then dies: its lease is short, but was to be looked at in an hour."""
    async with opened(database_url) as log, connected(database_url) as look:
        store = Store(log.database, machine="m1")
        await leased(log, "runs/a")
        await due(log, broken=True)
        await look.execute("UPDATE run_gateway.lease_looks SET at = now() + interval '1 h'")
        await look.execute("UPDATE run_gateway.leases SET check_at = now() + interval '1 h'")
        assert (await store.end_lost(10, again=False)).ended == []
        assert await look.fetchval("SELECT check_at <= now() + interval '1 min' FROM run_gateway.leases")


async def test_of_machines_that_look_at_once_one_does(database_url: str) -> None:
    async with opened(database_url, pool=8) as log:
        await leased(log, *(f"runs/{n}" for n in range(50)))
        await due(log, broken=True)
        stores = [Store(log.database, machine=f"m{n}") for n in range(6)]
        looks = await asyncio.gather(*(store.end_lost(100, again=False) for store in stores))
        assert sorted(len(look.ended) for look in looks) == [0, 0, 0, 0, 0, 50]


async def test_the_living_are_looked_at_again_when_their_time_comes(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as look:
        store = Store(log.database, machine="m1")
        await leased(log, *(f"runs/{n}" for n in range(25)))
        await due(log, broken=False)
        again, looks = False, 0
        while (seen := await store.end_lost(10, again=again)).more:
            assert seen.ended == []
            again, looks = True, looks + 1
        assert looks == 2
        wrong = (
            "SELECT count(*) FROM run_gateway.leases l JOIN run_gateway.streams s ON s.id = l.stream"
            " WHERE l.check_at <> s.lease_until"
        )
        assert await look.fetchval(wrong) == 0
        assert await look.fetchval("SELECT count(*) FROM run_gateway.streams WHERE closed") == 0


async def test_rows_that_somebody_holds_keep_nobody_from_ending(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as holder:
        store = Store(log.database, machine="m1")
        await leased(log, "runs/a", "runs/b", "runs/c")
        assert await store.open_control("runs/b")
        await due(log, broken=True)
        async with holder.transaction():
            await holder.execute(
                "SELECT FROM run_gateway.streams WHERE path IN ('runs/a', 'runs/b/control') FOR NO KEY UPDATE"
            )
            look = await store.end_lost(3, again=True)
            assert [news.path for news in look.ended] == ["runs/c"]
            look = await store.end_lost(2, again=True)
            assert (look.ended, look.more) == ([], False), "it does not turn in circles"
        await holder.execute("UPDATE run_gateway.leases SET check_at = clock_timestamp()")  # time passes
        assert [news.path for news in (await store.end_lost(3, again=True)).ended] == ["runs/a", "runs/b"]


async def test_a_run_that_cannot_be_ended_keeps_no_others(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as database:
        store = Store(log.database, machine="m1")
        await leased(log, "runs/bad", "runs/good")
        await database.execute("""
            CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'a fault'; END $$;
            CREATE TRIGGER fault BEFORE UPDATE ON run_gateway.streams FOR EACH ROW
            WHEN (NEW.path ~ 'bad' AND NEW.closed) EXECUTE FUNCTION fault();
        """)
        await due(log, broken=True)
        look = await store.end_lost(3, again=True)
        assert [news.path for news in look.ended] == ["runs/good"]
        await database.execute("DROP TRIGGER fault ON run_gateway.streams")
        await database.execute("UPDATE run_gateway.leases SET check_at = clock_timestamp()")  # time passes
        assert [news.path for news in (await store.end_lost(3, again=True)).ended] == ["runs/bad"]


async def test_a_sign_of_life_that_is_being_committed_keeps_the_run(database_url: str) -> None:
    """The look does not wait for it, to end the run when the row is free: that would be after the sign."""
    async with opened(database_url) as log, connected(database_url) as holder:
        store = Store(log.database, machine="m1")
        await leased(log, "runs/a")
        await due(log, broken=True)
        async with holder.transaction():
            await holder.execute("UPDATE run_gateway.streams SET lease_until = now() + interval '1 min'")
            look = asyncio.create_task(store.end_lost(3, again=True))
            await asyncio.sleep(0.05)
        assert (await look).ended == []
        assert (await store.end_lost(3, again=True)).ended == []
        assert not (await log.reader.stat("runs/a")).closed


async def test_a_look_uses_the_index_however_many_leases_there_are(database_url: str) -> None:
    async with connected(database_url) as connection:
        await connection.execute(
            "INSERT INTO run_gateway.leases SELECT n, now() + interval '1 minute' FROM generate_series(1, 10000) n"
        )
        await connection.execute("ANALYZE run_gateway.leases")
        plan = await connection.fetch(
            "EXPLAIN SELECT stream FROM run_gateway.leases WHERE check_at <= $1 ORDER BY check_at LIMIT 500".replace(
                "$1", "'2026-01-01'"
            )
        )
        assert "leases_check_at" in plan[1][0]


@pytest.mark.parametrize("seed", range(4))
async def test_no_zombie_is_heard_after_the_fence(database_url: str, seed: int) -> None:
    """250 runs a seed: producers that append, retry, close and beat while their runs are being ended."""
    chance = random.Random(seed)
    paths = [f"runs/{n:03}" for n in range(250)]
    accepted: dict[str, int] = dict.fromkeys(paths, 0)
    after: list[object] = []

    async def attempt(log: Log, path: str, seq: int) -> object:
        kind = chance.randrange(6)
        named = Producer("p", 0, seq)
        request = {
            0: AppendRequest(path, JSON_TYPE, [b'"z"']),
            1: AppendRequest(path, JSON_TYPE, [b'"z"'], lease=chance.randint(1, 9)),
            2: AppendRequest(path, None, []),
            3: AppendRequest(path, JSON_TYPE, [b'"z"', b'"z"'], stream_seq=uuid4().hex),
        }.get(kind, AppendRequest(path, JSON_TYPE, [b'"z"'], close=kind == 5 and chance.random() < 0.1, producer=named))
        try:
            done = await log.writer.append(request)
        except errors.ProtocolError as refused:
            return type(refused)
        accepted[path] += 0 if done.duplicate else len(request.events)
        return done

    async def zombie(log: Log, path: str) -> None:
        for seq in range(4):
            await asyncio.sleep(chance.random() * 0.2)
            await attempt(log, path, seq)

    async with opened(database_url, machine="m1") as log, opened(database_url, machine="m2") as other:
        store = Store(other.database, machine="m2")
        await leased(log, *paths)
        zombies = asyncio.gather(*(zombie(chance.choice((log, other)), path) for path in paths))
        while not zombies.done():
            await due(log, broken=True, path=f"runs/{chance.randrange(10)}%" if chance.random() < 0.5 else "runs/%")
            await store.end_lost(40, again=True)
        await zombies
        await due(log, broken=True)
        while (await store.end_lost(100, again=True)).more:
            pass
        fenced = {path: await log.content(path) for path in paths}
        after += [await attempt(chance.choice((log, other)), path, chance.randrange(6)) for path in paths]
        ended = 0
        for path in paths:
            assert await log.content(path) == fenced[path]
            last = fenced[path].rpartition(b',{"type":"run_end"')
            ended += bool(last[1]) or fenced[path].startswith(b'{"type":"run_end"')
            assert fenced[path].count(b'"z"') == accepted[path], "what was accepted is there, and nothing else"
        assert ended > 200, "all but those that closed themselves in time"
        heard = [outcome for outcome in after if isinstance(outcome, Appended) and not outcome.duplicate]
        assert heard == []
        assert after.count(errors.ProducerLost) > 150
