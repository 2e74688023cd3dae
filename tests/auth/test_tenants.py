"""Another tenant's streams and subscriptions are not there: on every route, in every mode, forks included."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.auth.people import as_key
from tests.servers import Client
from tests.subscriptions.tools import Receiver, eventually

JSON = {"content-type": "application/json"}
START = "0000000000000000_0000000000000000"
OURS, THEIRS, PLAIN = as_key("all@acme"), as_key("all@globex"), as_key("all")


@pytest.fixture
async def run(client: Client) -> str:
    """The URL of a run of acme's that has one event."""
    path = f"/runs/{uuid4().hex}"
    created = await client("PUT", path, headers=OURS | JSON, content=b'["of acme"]')
    assert (created.status_code, created.headers["location"]) == (201, client.url + path)
    return path


@pytest.mark.parametrize("others", [THEIRS, PLAIN])
async def test_a_foreign_run_is_not_there(client: Client, run: str, others: dict[str, str]) -> None:
    for path in (run, f"/v1/stream{run}"):
        asked: list[tuple[str, str, dict[str, Any]]] = [
            ("GET", path, {}),
            ("GET", f"{path}?offset=-1", {}),
            ("GET", f"{path}?offset=-1&live=sse", {}),
            ("GET", f"{path}?offset=now&live=long-poll", {}),
            ("HEAD", path, {}),
            ("POST", path, {"headers": others | JSON, "content": b"1"}),
            ("POST", path, {"headers": others | {"stream-closed": "true"}}),
            ("DELETE", path, {}),
        ]
        for method, target, options in asked:
            answer = await client(method, target, **({"headers": others} | options))
            assert answer.status_code == 404, (method, target)
    forked = await client("PUT", f"/runs/{uuid4().hex}", headers=others | {"stream-forked-from": run})
    assert (forked.status_code, forked.json()["error"]["type"]) == (404, "source_not_found")
    assert (await client("GET", run, headers=OURS)).json() == ["of acme"]


async def test_the_same_path_is_another_run_for_each_tenant(client: Client, run: str) -> None:
    assert (await client("PUT", run, headers=THEIRS | JSON, content=b'["of globex"]')).status_code == 201
    assert (await client("PUT", run, headers=PLAIN | JSON)).status_code == 201
    assert (await client("POST", run, headers=THEIRS | JSON, content=b'"more"')).status_code == 204
    for who, events in ((OURS, ["of acme"]), (THEIRS, ["of globex", "more"]), (PLAIN, [])):
        assert (await client("GET", run, headers=who)).json() == events
        tail = await client("GET", f"{run}?offset=-1&tail=1", headers=who)
        assert tail.json() == events[-1:]
    fork = f"/runs/{uuid4().hex}"
    assert (await client("PUT", fork, headers=OURS | {"stream-forked-from": run})).status_code == 201
    assert (await client("GET", fork, headers=OURS)).json() == ["of acme"]
    assert (await client("DELETE", run, headers=THEIRS)).status_code == 204
    assert (await client("GET", run, headers=OURS)).json() == ["of acme"]


async def test_no_path_can_be_written_that_is_anothers(client: Client, run: str) -> None:
    answer = await client("GET", f"/v1/stream/acme%1F{run[1:]}", headers=PLAIN)
    assert answer.status_code == 400


async def test_subscriptions_see_their_tenant_alone_and_do_not_name_it(client: Client, run: str) -> None:
    id, wake, name = uuid4().hex, f"wake-{uuid4().hex}", uuid4().hex
    url = f"/v1/stream/__ds/subscriptions/{id}"
    wanted = {"type": "pull-wake", "pattern": f"**/{name}", "wake_stream": wake}
    for who in (OURS, THEIRS, PLAIN):
        await client("PUT", f"/v1/stream/{wake}", headers=who | JSON)
        assert (await client("PUT", url, headers=who, json=wanted)).status_code == 201, "each has its own"
    path = f"runs/{name}"
    for number, who in enumerate((THEIRS, PLAIN, OURS), 1):
        await client("PUT", f"/{path}", headers=who | JSON, content=b"[%b]" % b",".join([b"1"] * number))
    for number, who in enumerate((THEIRS, PLAIN, OURS), 1):
        claim = (await client("POST", f"{url}/claim", headers=who, json={"worker": f"w{number}"})).json()
        (stream,) = claim["streams"]
        assert (stream["path"], stream["tail_offset"]) == (path, f"{0:016}_{number:016}"), "its own, not a namesake"
        events = (await client("GET", f"/v1/stream/{wake}", headers=who)).json()
        assert {(event["subscription_id"], event["stream"]) for event in events} == {(id, path)}
        done = {"wake_id": claim["wake_id"], "generation": claim["generation"], "done": True}
        bearer = {"authorization": f"Bearer {claim['token']}"}
        ack = done | {"acks": [{"stream": path, "offset": stream["tail_offset"]}]}
        assert (await client("POST", f"{url}/ack", headers=bearer, json=ack)).json() == {"ok": True, "next_wake": False}
        shown = await client("GET", url, headers=who)
        assert shown.json()["wake_stream"] == wake
        assert not any(mark in shown.text for mark in ("acme", "globex", "\\u001f"))
    assert (await client("DELETE", url, headers=THEIRS)).status_code == 204
    assert (await client("GET", url, headers=THEIRS)).status_code == 404
    assert (await client("GET", url, headers=OURS)).status_code == 200
    explicit = {"type": "pull-wake", "streams": [run[1:]], "wake_stream": wake}
    seen = await client("PUT", f"{url}-2", headers=THEIRS, json=explicit)
    (stream,) = seen.json()["streams"]
    assert (stream["path"], stream["acked_offset"]) == (run[1:], START), "acme's has an event, theirs is not there yet"


async def test_without_a_token_nobody_learns_of_subscriptions(client: Client) -> None:
    url = f"/v1/stream/__ds/subscriptions/{uuid4().hex}"
    wanted = {"type": "pull-wake", "pattern": "**", "wake_stream": "wake"}
    assert (await client("PUT", url, headers=PLAIN, json=wanted)).status_code == 201
    for target in (url, f"{url}-not"):
        answer = await client("POST", f"{target}/ack", headers={"authorization": "Bearer x"}, json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "TOKEN_INVALID")


async def test_a_webhook_sees_no_tenant_and_calls_back_for_its_own(client: Client) -> None:
    id, name = uuid4().hex, uuid4().hex
    path = f"runs/{name}"
    async with Receiver() as receiver:
        wanted = {"type": "webhook", "pattern": f"runs/{name}", "webhook": {"url": receiver.url}}
        url = f"/v1/stream/__ds/subscriptions/{id}"
        assert (await client("PUT", url, headers=OURS, json=wanted)).status_code == 201
        await client("PUT", f"/{path}", headers=THEIRS | JSON, content=b"[1,2]")
        await client("PUT", f"/{path}", headers=OURS | JSON, content=b"[1]")
        await eventually(lambda: receiver.received)
        (received,) = receiver.received
        assert (received.body["subscription_id"], received.work()) == (id, {path: f"{0:016}_{1:016}"})
        assert b"acme" not in received.raw.replace(received.body["callback_token"].encode(), b"")
        done = {name: received.body[name] for name in ("wake_id", "generation")} | {"done": True}
        done["acks"] = [{"stream": path, "offset": f"{0:016}_{1:016}"}]
        bearer = {"authorization": f"Bearer {received.body['callback_token']}"}
        callback = received.body["callback_url"].partition("/v1/")[2]
        for token, status in ((THEIRS, 401), (OURS, 401), (bearer, 200)):
            assert (await client("POST", f"/v1/{callback}", headers=token, json=done)).status_code == status
        assert (await client("DELETE", url, headers=OURS)).status_code == 204
