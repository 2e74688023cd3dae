"""Who may do what with a run; and runs of other tenants, which are not there."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.auth.people import as_key
from tests.servers import Client

JSON = {"content-type": "application/json"}
OURS, THEIRS, PLAIN = as_key("all@acme"), as_key("all@globex"), as_key("all")


@pytest.mark.parametrize(
    ("method", "path", "may"),
    [
        ("POST", "/runs", "writer"),
        ("GET", "/runs", "reader"),
        ("GET", "{run}?meta", "reader"),
        ("POST", "{run}/heartbeat", "writer"),
        ("POST", "{run}/cancel", "controller"),
        ("GET", "{run}/control", "reader"),
        ("POST", "{run}/control", "controller"),
    ],
)
async def test_each_request_needs_its_own_scope(client: Client, method: str, path: str, may: str) -> None:
    run = f"/runs/{uuid4().hex}"
    await client("PUT", run, headers=PLAIN | JSON)
    options: dict[str, Any] = {"content": b"{}"} if method == "POST" and not path.endswith("heartbeat") else {}
    for who in ("reader", "writer", "controller", "admin"):
        answer = await client(method, path.format(run=run), headers=as_key(who) | JSON, **options)
        assert answer.is_success if who == may else answer.status_code == 403, who
    assert (await client(method, path.format(run=run), **options)).status_code == 401


async def test_a_tenants_runs_are_its_own(client: Client) -> None:
    id, group = uuid4().hex, uuid4().hex
    for who in (OURS, THEIRS, PLAIN):
        made = await client("POST", "/runs", headers=who, json={"id": id, "metadata": {"group": group}})
        assert (made.status_code, made.json()["streamUrl"]) == (201, f"{client.url}/runs/{id}"), "each has its own"
    only = f"{id}-2"
    await client("POST", "/runs", headers=OURS, json={"id": only, "metadata": {"group": group}, "lease": 60})
    for who, ids in ((OURS, [only, id]), (THEIRS, [id]), (PLAIN, [id])):
        listed = (await client("GET", f"/runs?metadata.group={group}", headers=who)).json()
        assert [record["runId"] for record in listed["runs"]] == ids
    for method, path in (("GET", "?meta"), ("POST", "/cancel"), ("POST", "/heartbeat"), ("GET", "/control")):
        assert (await client(method, f"/runs/{only}{path}", headers=THEIRS)).status_code == 404
        assert (await client(method, f"/runs/{only}{path}", headers=OURS)).is_success
    (event,) = (await client("GET", f"/runs/{only}/control", headers=OURS)).json()
    assert event["runId"] == only
    beat = await client("POST", f"/runs/{only}/heartbeat", headers=OURS)
    assert beat.headers["run-cancel-requested"] == "true"
    end = {"type": "run_end", "result": 1}
    await client("POST", f"/runs/{only}", headers=OURS | {"stream-closed": "true"}, json=end)
    record = (await client("GET", f"/runs/{only}?meta", headers=OURS)).json()
    assert (record["runId"], record["status"], record["result"]) == (only, "completed", 1)
    assert (await client("GET", f"/runs/{only}/control", headers=OURS)).headers["stream-closed"] == "true"
