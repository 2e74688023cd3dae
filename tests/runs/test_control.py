"""The control stream and cancel: asked at one Machine, learned at the other."""

from __future__ import annotations

import asyncio

from gateway.log.database import Database
from gateway.runs.store import Store
from tests.log.rig import connected, opened, until_blocked
from tests.runs.tools import CLOSED, JSON, append, at, events, make, meta, producer, refusal, value
from tests.servers import Client, following, last_control, payloads

CANCEL = "run-cancel-requested"


async def test_a_cancel_is_an_event_a_mark_and_a_time(a: Client, b: Client, id: str) -> None:
    await make(a, id)
    assert CANCEL not in (await append(a, id, 1, **producer(0, 0))).headers
    async with following(a, f"/runs/{id}/control?offset=-1&live=sse") as control:
        assert (await b("POST", f"/runs/{id}/cancel", json={"reason": "the user \u2019has\n gone"})).status_code == 202
        (event,) = payloads(await control.until(lambda reading: bool(payloads(reading))))
    record = await meta(a, id)
    assert event == {
        "type": "cancel",
        "runId": id,
        "reason": "the user \u2019has\n gone",
        "timestamp": record["cancelRequestedAt"],
    }
    assert record["status"] == "active", "to be asked is not to stop"
    for client in (a, b):
        # Also for a retry, for a producer that has just restarted, and for one that only beats.
        for headers in (producer(0, 0), producer(1, 0, id=client.url), JSON):
            answer = await append(client, id, 2, **headers)
            assert answer.is_success
            assert answer.headers[CANCEL] == "true"
        assert (await client("POST", f"/runs/{id}/heartbeat")).headers[CANCEL] == "true"
    closed = await append(b, id, {"type": "run_end", "isError": True, "error": "stopped"}, **CLOSED)
    assert closed.headers[CANCEL] == "true"
    assert (await meta(a, id))["cancelRequestedAt"] == record["cancelRequestedAt"]


async def test_cancel_is_idempotent_and_too_late_for_what_has_ended(a: Client, b: Client, id: str) -> None:
    await make(a, id)
    answers = await asyncio.gather(*(client("POST", f"/runs/{id}/cancel") for client in (a, b) * 5))
    assert {answer.status_code for answer in answers} == {202}
    assert len(await events(b, f"/runs/{id}/control")) == 1
    await a("POST", f"/runs/{id}", headers=CLOSED)
    assert refusal(await b("POST", f"/runs/{id}/cancel")) == (409, "run_ended")
    assert refusal(await b("POST", f"/runs/{id}-not/cancel")) == (404, "run_not_found")
    for wrong in (b"{", b"[]", b'{"reason":1}', b'{"why":"x"}', rb'{"reason":"\ud83d"}'):
        answer = await b("POST", f"/runs/{id}/cancel", content=wrong)
        assert refusal(answer) == (400, "invalid_request")
    assert answer.json()["error"]["details"] == "reason must not hold half of a surrogate pair"
    large = b'{"reason":"a"%b}' % (b" " * (16 << 10))
    assert refusal(await b("POST", f"/runs/{id}/cancel", content=large)) == (413, "body_too_large")


async def test_of_two_cancels_in_a_row_one_is_an_event(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as other:
        await log.create("runs/a")
        store = Store(log.database, machine="m1")
        async with other.transaction():
            assert (
                await other.fetchval("SELECT verdict FROM run_gateway.cancel_run('m2', 'runs/a', NULL)") == "requested"
            )
            second = asyncio.create_task(store.cancel("runs/a", None))
            await until_blocked(other)
        assert await second is None
        assert (await log.reader.stat("runs/a/control")).tail == 1


async def test_the_control_stream_is_there_as_soon_as_its_run_is(
    a: Client, b: Client, id: str, database: Database
) -> None:
    assert refusal(await a("GET", f"/runs/{id}/control")) == (404, "stream_not_found")
    assert refusal(await a("POST", f"/runs/{id}/control", json=1)) == (404, "stream_not_found")
    await a("PUT", f"/runs/{id}", headers=JSON)
    count = "SELECT count(*) FROM run_gateway.streams WHERE path LIKE 'runs/' || $1 || '%'"
    assert await value(database, count, id) == 1, "and costs nothing until somebody asks for it"
    answers = await asyncio.gather(*(client("GET", f"/runs/{id}/control") for client in (a, b) * 4))
    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, [])] * 8
    assert (await b("HEAD", f"/runs/{id}/control")).headers["stream-next-offset"] == at(0)
    assert (await b("PUT", f"/v1/stream/runs/{id}/control", headers=JSON)).status_code == 200
    assert (await b("PUT", f"/runs/{id}/control", headers={"Content-Type": "text/plain"})).status_code == 409
    assert (await b("DELETE", f"/runs/{id}/control")).status_code == 405, "it goes with its run"


async def test_answers_and_approvals_go_from_readers_to_the_producer(a: Client, b: Client, id: str) -> None:
    await make(a, id)
    async with following(a, f"/runs/{id}/control?offset=-1&live=sse") as control:
        for n in range(3):
            assert (await b("POST", f"/runs/{id}/control", json={"type": "answer", "n": n})).status_code == 204
        assert (await b("POST", f"/runs/{id}/control", json=1, headers=producer(0, 0, "reader"))).status_code == 200
        assert (await b("POST", f"/runs/{id}/control", json=1, headers=producer(0, 0, "reader"))).status_code == 204
        seen = payloads(await control.until(lambda reading: len(payloads(reading)) == 4))
        assert seen == [{"type": "answer", "n": n} for n in range(3)] + [1]
        assert await events(a, f"/runs/{id}") == []


async def test_it_closes_with_its_run_and_its_readers_are_told(a: Client, b: Client, id: str) -> None:
    await make(a, id)
    url = f"/runs/{id}/control?offset=-1&live=sse"
    async with following(a, url) as here, following(b, url) as there:
        await append(a, id, {"type": "run_end"}, **CLOSED)
        for reader in (here, there):
            assert last_control(await reader.end()) == {"streamNextOffset": at(0), "streamClosed": True}
    assert refusal(await b("POST", f"/runs/{id}/control", json=1)) == (409, "stream_closed")
    await make(a, f"{id}-2")
    await a("POST", f"/runs/{id}-2", headers=CLOSED)
    late = await b("GET", f"/runs/{id}-2/control")
    assert (late.json(), late.headers["stream-closed"]) == ([], "true"), "one that nobody had asked for before"


async def test_many_runs_close_at_once_with_their_control_streams(a: Client, b: Client, id: str) -> None:
    """In one batch, beside appends to the same control streams: nobody waits for another's lock for ever."""
    names = [f"{id}-{n}" for n in range(40)]
    await asyncio.gather(*(make(a, name) for name in names))
    await asyncio.gather(*(events(b, f"/runs/{name}/control") for name in names))
    answers = await asyncio.gather(
        *(append(a, name, {"type": "run_end"}, **CLOSED) for name in names),
        *(b("POST", f"/runs/{name}/control", json=1) for name in reversed(names)),
        *(b("POST", f"/runs/{name}/cancel") for name in names),
    )
    assert {answer.status_code for answer in answers[:40]} == {204}
    assert {answer.status_code for answer in answers[40:]} <= {202, 204, 409}
    for name in names:
        assert (await b("HEAD", f"/runs/{name}/control")).headers["stream-closed"] == "true"


async def test_names_of_requests_are_no_streams(a: Client, b: Client, id: str) -> None:
    await make(a, id)
    for name in ("cancel", "heartbeat"):
        for prefix in ("/runs", "/v1/stream/runs"):
            for method in ("PUT", "GET", "HEAD", "DELETE"):
                answer = await b(method, f"{prefix}/{id}/{name}")
                assert (answer.status_code, answer.headers["allow"]) == (405, "POST, OPTIONS")
        assert (await b("OPTIONS", f"/runs/{id}/{name}")).status_code == 204
    for path in (f"/runs/{id}/a/cancel", f"/v1/stream/{id}/heartbeat", f"/v1/stream/{id}/control"):
        assert (await b("PUT", path)).status_code == 201, "only right below a run are they reserved"


async def test_a_cancel_names_no_event_that_a_closed_control_refused(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as listening:
        told: list[object] = []
        await listening.add_listener("run_gateway", lambda *message: told.append(message[-1]))
        store = Store(log.database, machine="m1")
        await log.create("runs/1")
        assert await store.open_control("runs/1")
        await log.append("runs/1/control", b'{"type":"stop"}', close=True)
        assert await store.cancel("runs/1", None) is None
        assert (await log.append("runs/1", b"1")).cancel_requested, "the producer is told all the same"
        assert (await store.record("runs/1")).cancel_requested_at is not None
        assert await log.content("runs/1/control") == b'{"type":"stop"}'
        await listening.execute("SELECT 1")
        assert not [payload for payload in told if "cancel" in str(payload)]
