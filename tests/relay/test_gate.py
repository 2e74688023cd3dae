"""Where the gateway asks for its own credential, each way back needs it; where it does not, recordings are hidden."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.auth.principal import TENANT
from gateway.relay.readers import HIDDEN
from tests.databases import Postgres
from tests.relay.client import Response, answer, asking
from tests.relay.houses import House, house_of, key, keyed

RELAY = "sse:/any,tanstack:/ai"
FRAME = b"data: 1\n\n"
KEYS = {
    "app@acme": "read,write,control",
    "writer@acme": "write",
    "reader@acme": "read",
    "stopper@acme": "control",
    "app@rival": "read,write,control",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machines(postgres: Postgres) -> AsyncIterator[House]:
    async with house_of(postgres, relay=RELAY, **keyed(KEYS)) as house:
        yield house


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def open_machines(postgres: Postgres) -> AsyncIterator[House]:
    """For anybody from anywhere, by a cookie."""
    more: dict[str, Any] = {"host": "0.0.0.0", "allow_anonymous": True, "relay_credential": "cookie:session"}
    async with house_of(postgres, relay=RELAY, **more) as house:
        yield house


in_module = pytest.mark.asyncio(loop_scope="module")


async def record(house: House, id: str, headers: dict[str, str], *, ended: bool = True) -> Response:
    """What a client has of an answer of one frame."""
    async with asking(house.one.url, "POST", "/any", {"x-run-id": id} | headers, {}) as response:
        call = await house.agent.call()
        await call.begin(headers={"content-type": "text/event-stream", "set-cookie": "a=b"})
        await call.say(FRAME)
        await call.end()
        await response.ended()
        return response


def last_id(response: Response) -> dict[str, str]:
    """What leads to before its one frame."""
    id = response.body.partition(b"\n")[0].removeprefix(b"id: ").decode()
    return {"last-event-id": id.rpartition(".")[0] + ".0"}


@in_module
@pytest.mark.parametrize(("headers", "status"), [({}, 401), (key("reader@acme"), 403), (key("nobody"), 401)])
async def test_nobody_starts_a_run_without_the_right(house: House, headers: dict[str, str], status: int) -> None:
    refused = await answer(house.one.url, "POST", "/any", {"x-run-id": "no"} | headers, {})
    assert refused.status == status
    assert house.agent.calls == []


@in_module
async def test_each_way_back_needs_the_right_to_read(house: House) -> None:
    mine = await record(house, "mine", key("app@acme"))
    assert mine.headers["set-cookie"] == "a=b"
    ways: list[tuple[str, str, dict[str, str], object]] = [
        ("GET", "/any/mine", {}, None),
        ("GET", "/elsewhere", last_id(mine), None),
        ("POST", "/any", last_id(mine), {}),
        ("POST", "/any", {"x-run-id": "mine"}, {}),
    ]
    house.agent.calls.clear()
    for method, target, headers, body in ways:
        back = await answer(house.other.url, method, target, headers | key("app@acme"), body)
        assert (back.status, back.body) == (200, mine.body)
        assert "set-cookie" not in back.headers
        assert back.headers["cache-control"] == "private, no-cache"
        for others, status in (({}, 401), (key("writer@acme"), 403), (key("stopper@acme"), 403)):
            refused = await answer(house.other.url, method, target, headers | others, body)
            assert refused.status == status, (method, target)
            assert FRAME not in refused.body
    assert house.agent.calls == []


@in_module
async def test_another_tenant_is_not_told_that_it_is_there(house: House) -> None:
    mine = await record(house, "ours", key("app@acme"))
    for target, headers in (("/any/ours", {}), ("/any/x", last_id(mine))):
        async with asking(house.other.url, "GET", target, headers | key("app@rival")) as back:
            await (await house.agent.call()).answer(404, b"none")  # as if there were no such recording
            assert (await back.ended(), back.status) == (b"none", 404)
    theirs = await record(house, "ours", key("app@rival"))  # and its key is another one
    assert theirs.body != mine.body
    async with httpx.AsyncClient(base_url=house.one.url) as client:
        runs = (await client.get("/runs", headers=key("app@rival"))).json()["runs"]
        assert [run["runId"] for run in runs] == [theirs.body.partition(b"\n")[0][4:].decode().rpartition(".")[0]]


@in_module
async def test_a_stop_needs_the_right_to_control(house: House) -> None:
    async with asking(house.one.url, "POST", "/any", {"x-run-id": "long"} | key("app@acme"), {}) as response:
        call = await house.agent.call()
        await call.begin()
        await call.say(FRAME)
        await response.until(FRAME)
        for headers, status in (({}, 401), (key("reader@acme"), 403), (key("writer@acme"), 403)):
            assert (await answer(house.other.url, "POST", "/any/long/stop", headers, {})).status == status
        async with asking(house.other.url, "POST", "/any/long/stop", key("app@rival"), {}) as passed:
            await (await house.agent.call()).answer(404, b"")
            await passed.ended()
            assert passed.status == 404
        assert (await answer(house.other.url, "POST", "/any/long/stop", key("stopper@acme"), {})).status == 200
        await call.left()


@in_module
async def test_recordings_of_anybody_are_hidden_from_everybody(open_machines: House) -> None:
    house = open_machines
    mine, cookie = "s=1; session=a", {"cookie": "session=a"}
    response = await record(house, "secret", {"cookie": mine})
    run = last_id(response)["last-event-id"].rpartition(".")[0]
    async with httpx.AsyncClient(base_url=house.other.url) as client:
        assert (await client.get("/runs")).json()["runs"] == []
        for path in (run, f"{HIDDEN}%1fruns%2f{run}"):
            for method, below in (("GET", ""), ("GET", "?meta"), ("POST", "/cancel"), ("DELETE", "")):
                refused = await client.request(method, f"/runs/{path}{below}", headers=cookie)
                assert refused.status_code in (400, 404), (method, path, below)
        stream = await client.get(f"/v1/stream/{HIDDEN}%1fruns/{run}")
        assert stream.status_code in (400, 404)
    assert TENANT.fullmatch(HIDDEN) is None  # no credential can be for it
    assert (await answer(house.other.url, "GET", "/any/secret", {"cookie": mine})).body == response.body
    for other in ({}, {"cookie": "session=b"}, {"cookie": "sessio=a"}, {"cookie": "x=session=a"}):
        async with asking(house.other.url, "GET", "/any/secret", other) as back:
            await (await house.agent.call()).answer(404, b"")
            assert (await back.ended(), back.status) == (b"", 404)
