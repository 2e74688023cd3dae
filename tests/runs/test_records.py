"""Coordinates, records and lists, asked of one Machine and seen at the other."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from gateway.log.database import Database
from gateway.runs.ids import CHANCE_BYTES, run_id
from tests.runs.tools import CLOSED, JSON, append, at, events, make, meta, refusal, value
from tests.servers import Client, Running


def test_ids_are_ulids_which_sort_by_time() -> None:
    # The example of github.com/ulid/spec: its time, 1469918176385, is written 01ARYZ6S41.
    assert run_id(1469918176.385, bytes(CHANCE_BYTES)) == "run_01ARYZ6S410000000000000000"
    assert run_id(1469918176.385, b"\xff" * CHANCE_BYTES) == "run_01ARYZ6S41ZZZZZZZZZZZZZZZZ"
    assert run_id(1469918176.384, b"\xff" * CHANCE_BYTES) < run_id(1469918176.385, bytes(CHANCE_BYTES))


async def test_a_run_is_made_and_answered_with_its_coordinates(a: Client, b: Client) -> None:
    answer = await a("POST", "/runs", json={"workflowName": "chat", "input": {"text": "hi"}})
    assert answer.status_code == 201
    id = answer.json()["runId"]
    assert id.startswith("run_") and len(id) == 30
    url = f"https://gateway.example/runs/{id}"
    assert answer.json() == {"runId": id, "streamUrl": url, "offset": at(0)}
    assert (answer.headers["location"], answer.headers["stream-next-offset"]) == (url, at(0))
    assert answer.headers["x-content-type-options"] == "nosniff"
    await append(a, id, [1, 2])
    assert await events(b, f"/runs/{id}?offset={at(0)}") == [1, 2]


async def test_nothing_needs_to_be_said_of_a_run(b: Client) -> None:
    answer = await b("POST", "/runs")
    assert answer.status_code == 201
    record = await meta(b, answer.json()["runId"])
    assert set(record) == {"runId", "status", "startedAt"}


async def test_the_same_request_again_succeeds_and_another_conflicts(a: Client, b: Client, id: str) -> None:
    body: dict[str, Any] = {"id": id, "input": {"a": 1, "b": 2}, "metadata": {"k": "v"}}
    await make(a, **body)
    await append(a, id, "first")
    again = await b("POST", "/runs", json={"metadata": {"k": "v"}, "input": {"b": 2, "a": 1}, "id": id})
    assert again.status_code == 200
    # To be read from the beginning all the same: this may be the retry of an answer that was lost.
    assert (again.json()["offset"], again.headers["stream-next-offset"]) == (at(0), at(1))
    for other in ({}, {"input": {"a": 1, "b": 3}, "metadata": {"k": "v"}}, {**body, "lease": 5}):
        assert refusal(await b("POST", "/runs", json={**other, "id": id})) == (409, "run_exists")
    await b("POST", f"/runs/{id}", headers=CLOSED)
    assert (await a("POST", "/runs", json=body)).status_code == 200, "also after it has ended"


async def test_of_many_that_make_it_at_once_one_does(a: Client, b: Client, id: str) -> None:
    answers = await asyncio.gather(*(client("POST", "/runs", json={"id": id}) for client in (a, b) * 5))
    assert sorted(answer.status_code for answer in answers) == [200] * 9 + [201]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[]", "The body must be a JSON object."),
        (b"{", "The body must be a JSON object."),
        (b'{"id":"a/b"}', "id must not hold a slash or control characters"),
        (b'{"id":"a\\u001fb"}', "id must not hold a slash or control characters"),
        (b'{"id":"%b"}' % (b"x" * 257), "id String should have at most 256 characters"),
        (b'{"id":5}', "id should be a valid string"),
        (b'{"lease":0}', "lease should be greater than or equal to 1"),
        (b'{"lease":3601}', "lease should be less than or equal to 3600"),
        (b'{"lease":"5"}', "lease should be a valid integer"),
        (b'{"ttl":-1}', "ttl should be greater than or equal to 0"),
        (b'{"metadata":{"a":null}}', "metadata.a must be a string of at most 1024 characters"),
        (b'{"metadata":{"a":["b"]}}', "metadata.a must be a string"),
        (b'{"metadata":{"a":"\\u0000"}}', "metadata.a must be a string"),
        (b'{"metadata":{"a":9007199254740992}}', "metadata.a must be a string"),
        (b'{"contentType":"nonsense"}', "contentType must be a media type, such as application/json"),
        (b'{"workflow":"misspelt"}', "workflow is not known here"),
        (
            b'{"input":%b}' % (b"[" * 1100 + b"]" * 1100),
            "The body must be a JSON object. It is nested deeper than 1024",
        ),
        (b'{"input":[1,NaN]}', "The body must be a JSON object. NaN is not JSON."),
        (b'{"lostEvent":1e999}', "The body must be a JSON object. A number is larger than a double may be."),
        (b'{"lostEvent":[1]}', "lostEvent should be a valid dictionary"),
        (rb'{"workflowName":"a\ud83d"}', "workflowName must not hold half of a surrogate pair"),
        (rb'{"metadata":{"a":"\udc00"}}', "metadata must not hold half of a surrogate pair"),
        (rb'{"metadata":{"\udc00":1}}', "metadata must not hold half of a surrogate pair"),
        (rb'{"id":"\udc00"}', "id must not hold half of a surrogate pair"),
        (rb'{"\udc00":1}', "The body must be a JSON object. A name holds half of a surrogate pair."),
        (b'{"metadata":{%b}}' % b",".join(b'"%d":{}' % n for n in range(33)), "metadata must have at most 32 names"),
        (
            b'{"metadata":{"a":"%b"}}' % (b"b" * (129 << 10)),
            "All fields but input and lostEvent may have 131072",
        ),
        (b"{%b}" % b",".join([b'"ttl":1'] * 65), "The body has more than 64 fields."),
        (b'{"%b":1}' % (b"x" * 9999), "x" * 256 + " is not known here"),
    ],
)
async def test_a_senseless_request_is_refused_in_plain_words(b: Client, body: bytes, words: str) -> None:
    answer = await b("POST", "/runs", content=body)
    assert refusal(answer) == (400, "invalid_request")
    assert answer.json()["error"]["details"].startswith(words)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (b'{"n":1.50,"b":2e3, "a":12345678901234567890123}', b'{"n":1.50,"b":2e3, "a":12345678901234567890123}'),
        (rb'["\ud83d","\u0000","\u00e9",{"\udc00":1}]', rb'["\ud83d","\u0000","\u00e9",{"\udc00":1}]'),
        (b'{"a":\r\n[1,\n2]}', b'{"a":  [1, 2]}'),
        (b"[" * 1000 + b"]" * 1000, b"[" * 1000 + b"]" * 1000),
        (b'"%b"' % (b"x" * 500_000), b'"%b"' % (b"x" * 500_000)),
        (b"null", b"null"),
    ],
    ids=["digits", "half pairs", "line breaks", "deep", "long", "null"],
)
async def test_what_a_run_was_started_with_is_kept_to_the_byte(
    a: Client, b: Client, id: str, given: bytes, kept: bytes
) -> None:
    lost = b'{"type":"lost","why":%b}' % given
    body = b'{"id":"%b", "lostEvent": %b ,"lease":1,"input" : %b}' % (id.encode(), lost, given)
    assert (await a("POST", "/runs", content=body)).status_code == 201
    assert (await b("POST", "/runs", content=body)).status_code == 200
    assert (await a("POST", "/runs", content=body.replace(b"lost", b"last"))).status_code in (400, 409)
    record = (await b("GET", f"/runs/{id}?meta&wait=30")).content
    assert b'"input":%b,' % kept in record
    assert b'"status":"errored"' in record
    assert (await a("GET", f"/runs/{id}")).content == b'[{"type":"lost","why":%b}]' % kept


async def test_links_are_right_behind_a_proxy(a: Client, b: Client, machines: tuple[Running, Running]) -> None:
    name = uuid4().hex
    forwarded = {"Host": "agents.example", "X-Forwarded-Proto": "https"}  # from a peer that is trusted: loopback
    answer = await b("POST", "/runs", json={"id": name}, headers=forwarded)
    assert answer.json()["streamUrl"] == answer.headers["location"] == f"https://agents.example/runs/{name}"
    assert (await b("PUT", f"/runs/{name}-2", headers=forwarded)).headers["location"] == (
        f"https://agents.example/runs/{name}-2"
    )
    assert (await a("PUT", f"/runs/{name}-3")).headers["location"] == f"https://gateway.example/runs/{name}-3"
    assert (await b("PUT", f"/runs/{name}-4")).headers["location"] == f"{machines[1].url}/runs/{name}-4"


async def test_a_run_ends_as_its_run_end_says(a: Client, b: Client, id: str) -> None:
    await make(a, id, workflowName="chat", input=[1.50, None])
    assert (await meta(b, id))["status"] == "active"
    end = {"type": "run_end", "result": {"text": "done"}, "isError": False, "durationMs": 1}
    await append(a, id, ["token", end], **CLOSED)
    record = await meta(b, id)
    assert list(record) == [
        "runId", "workflowName", "status", "startedAt", "input", "endedAt", "isError", "durationMs", "result",
    ]  # fmt: skip
    assert (record["status"], record["isError"], record["result"]) == ("completed", False, {"text": "done"})
    assert record["startedAt"] <= record["endedAt"]
    assert record["durationMs"] >= 0


@pytest.mark.parametrize(
    ("last", "status", "more"),
    [
        (
            {"type": "run_end", "isError": True, "result": None, "error": {"name": "E"}},
            "errored",
            {"error": {"name": "E"}},
        ),
        ({"type": "run_end", "result": None}, "completed", {}),
        ({"type": "run_end", "isError": False, "status": "cancelled", "result": 1}, "cancelled", {"result": 1}),
        ({"type": "run_end", "isError": True, "status": "cancelled"}, "errored", {}),
        ({"type": "run_end", "status": "active"}, "completed", {}),
        ({"type": "token", "isError": True}, "completed", {}),
        ("run_end", "completed", {}),
        # Postgres keeps no NUL in a text, but JSON as it came; a backslash before "u0000" is something else.
        ({"type": "run_end", "isError": True, "error": "\0\0\\u0000 \U0001f600"}, "errored",
         {"error": "\0\0\\u0000 \U0001f600"}),
        ({"type": "\0"}, "completed", {}),
        (None, "completed", {}),
    ],
)  # fmt: skip
async def test_a_close_alone_looks_at_the_last_event(
    a: Client, b: Client, id: str, last: Any, status: str, more: dict[str, Any]
) -> None:
    await make(a, id)
    if last is not None:
        await append(b, id, [last])
    assert (await a("POST", f"/runs/{id}", headers=CLOSED)).status_code == 204
    record = await meta(b, id)
    assert (record["status"], record["isError"]) == (status, status == "errored")
    assert {name: record[name] for name in record if name in ("result", "error")} == more


async def test_a_run_of_another_type_has_a_record_too(a: Client, b: Client, id: str) -> None:
    await make(a, id, contentType="text/plain")
    text = b'{"type":"run_end","isError":true}'
    await a("POST", f"/runs/{id}", content=text, headers={"Content-Type": "text/plain"} | CLOSED)
    assert (await meta(b, id))["status"] == "completed"


async def test_a_plain_stream_at_a_runs_path_has_a_record(a: Client, b: Client, id: str, database: Database) -> None:
    await a("PUT", f"/v1/stream/runs/{id}", headers=JSON)
    assert (await meta(b, id))["runId"] == id
    await a("PUT", f"/runs/{id}-closed", json=[{"type": "run_end", "result": 1}], headers=JSON | CLOSED)
    record = await meta(b, f"{id}-closed")
    assert (record["status"], record["result"]) == ("completed", 1)
    for path in (f"/v1/stream/{id}", f"/runs/{id}/below"):
        await a("PUT", path, headers=JSON)
    assert await value(database, "SELECT count(*) FROM run_gateway.runs WHERE id = $1 OR id = 'below'", id) == 1
    assert refusal(await b("GET", f"/runs/{id}x?meta")) == (404, "run_not_found")


async def test_a_request_for_the_record_can_wait_for_the_end(a: Client, b: Client, id: str) -> None:
    await make(a, id)
    assert (await meta(b, id, "&wait=0.1"))["status"] == "active"
    waiting = [asyncio.create_task(meta(client, id, "&wait=60")) for client in (a, b)]
    await append(a, id, "token")
    done, _ = await asyncio.wait(waiting, timeout=0.3)
    assert not done, "an event is no end"
    await append(b, id, {"type": "run_end", "result": 7}, **CLOSED)
    for record in await asyncio.wait_for(asyncio.gather(*waiting), 60):
        assert (record["status"], record["result"]) == ("completed", 7)
    assert (await meta(a, id, "&wait=60"))["status"] == "completed"
    for wrong in ("-1", "301", "soon", "nan"):
        assert refusal(await a("GET", f"/runs/{id}?meta&wait={wrong}")) == (400, "invalid_request")


async def test_a_deleted_run_is_gone_with_all_that_was_its(a: Client, b: Client, id: str, database: Database) -> None:
    await make(a, id, lease=60)
    await b("POST", f"/runs/{id}/cancel")
    assert (await b("DELETE", f"/runs/{id}")).status_code == 204
    assert refusal(await a("GET", f"/runs/{id}?meta")) == (404, "run_not_found")
    for path in (f"/runs/{id}", f"/runs/{id}/control"):
        assert refusal(await a("GET", path)) == (404, "stream_not_found")
    assert await value(database, "SELECT count(*) FROM run_gateway.runs WHERE id = $1", id) == 0
    assert (await make(a, id)).json()["offset"] == at(0), "and its id can be used again"


async def test_an_expired_run_takes_its_record_along(a: Client, b: Client, id: str, database: Database) -> None:
    await make(a, id, ttl=100)
    await value(
        database, "UPDATE run_gateway.streams SET expires_at = now() - interval '1 s' WHERE path = 'runs/' || $1", id
    )
    assert refusal(await b("GET", f"/runs/{id}?meta")) == (404, "run_not_found")
    await value(database, "UPDATE run_gateway.expiries SET check_at = now() - interval '1 s'")
    await value(database, "SELECT run_gateway.purge(100)")
    assert await value(database, "SELECT count(*) FROM run_gateway.runs WHERE id = $1", id) == 0


async def test_runs_are_listed_newest_first_page_by_page(a: Client, b: Client) -> None:
    group = uuid4().hex
    ids = [f"{group}-{n}" for n in range(7)]
    for n, name in enumerate(ids):
        await make(a, name, workflowName=f"w{n % 2}-{group}", metadata={"group": group, "n": str(n)}, input="large")
    await append(a, ids[1], {"type": "run_end", "isError": True, "error": {"name": "E"}}, **CLOSED)
    await append(a, ids[2], {"type": "run_end", "result": "large"}, **CLOSED)
    await append(a, ids[3], {"type": "run_end", "status": "cancelled"}, **CLOSED)

    async def listed(query: str) -> list[str]:
        names, cursor = [], ""
        while True:
            answer = await b("GET", f"/runs?metadata.group={group}&limit=2{query}{cursor}")
            assert answer.status_code == 200, answer.text
            page = answer.json()
            names += [record["runId"] for record in page["runs"]]
            assert not any({"input", "result", "error"} & set(record) for record in page["runs"])
            if "nextCursor" not in page:
                return names
            assert len(page["runs"]) == 2
            cursor = f"&cursor={page['nextCursor']}"

    assert await listed("") == ids[::-1]
    assert await listed("&status=active") == [ids[6], ids[5], ids[4], ids[0]]
    assert await listed("&status=errored") == [ids[1]]
    assert await listed("&status=cancelled") == [ids[3]]
    assert await listed(f"&workflowName=w0-{group}&status=completed") == [ids[2]]
    assert await listed("&metadata.n=3") == [ids[3]]
    assert await listed("&metadata.n=3&status=completed") == []
    for wrong in ("status=done", "limit=0", "limit=501", "cursor=x", "state=active", "limit=1&limit=2"):
        assert refusal(await b("GET", f"/runs?{wrong}")) == (400, "invalid_request")


async def test_metadata_are_kept_and_found_by_what_they_read_as(a: Client, b: Client) -> None:
    group = uuid4().hex
    values = {"number": 2, "text": "2", "fraction": 2.5, "yes": True, "word": "true"}
    for name, kept in values.items():
        await make(a, f"{group}-{name}", metadata={"group": group, "v": kept})

    async def found(query: str) -> dict[str, Any]:
        answer = await b("GET", f"/runs?metadata.group={group}&{query}")
        assert answer.status_code == 200, answer.text
        return {run["runId"].rpartition("-")[2]: run["metadata"]["v"] for run in answer.json()["runs"]}

    assert await found("") == values
    assert await found("metadata.v=2") == {"number": 2, "text": "2"}
    assert await found("metadata.v=2.50") == {"fraction": 2.5}
    assert await found("metadata.v=true") == {"yes": True, "word": "true"}
    for none in ("null", "[2]", "%222%22", "1e999", "9007199254740993"):
        assert await found(f"metadata.v={none}") == {}


async def test_every_filter_has_its_index(database: Database) -> None:
    async with database.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL enable_seqscan = off")
        await connection.execute("SET LOCAL enable_sort = off")  # the order of the page comes from the index as well
        for condition, index in (
            ("true", "runs_newest"),
            ("status = 'active'", "runs_status"),
            ("workflow_name = 'w'", "runs_workflow_name"),
        ):
            plan = await connection.fetch(
                "EXPLAIN SELECT * FROM run_gateway.runs"
                f" WHERE tenant = 't' AND {condition} ORDER BY stream DESC LIMIT 5"
            )
            assert f"Index Scan Backward using {index}" in "\n".join(row[0] for row in plan)
        either = 'metadata @> \'{"k": "2"}\' OR metadata @> \'{"k": 2}\''
        plan = await connection.fetch(f"EXPLAIN SELECT * FROM run_gateway.runs WHERE {either}")
        assert "runs_metadata" in "\n".join(row[0] for row in plan)
