"""Every route and method with every kind of credential. The routes are the application's own, not a list of ours, so
that one which the rules have forgotten fails here; what must never change is written out besides.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from gateway.app import Gateway
from gateway.auth.principal import Scope
from gateway.auth.read_tokens import Capability
from gateway.auth.rules import BELOW_A_RUN, ROUTES, STREAM, STREAMS, Need, need_of
from gateway.protocol.target import Part
from gateway.settings import load
from tests.auth.people import as_jwt, as_key
from tests.servers import Client, Running

JSON = {"content-type": "application/json"}
ALL = as_key("all")
OURS = "an event of the default tenant"
RESERVED = ("/v1/stream/__ds", "/v1/stream/__ds/{rest:path}")


class Door(NamedTuple):
    """One method of one route, as the framework writes it."""

    method: str
    route: str

    @property
    def need(self) -> Need:
        return need_of(self.route.replace(":path", ""), self.method)

    def url(self, run: str) -> str:
        return (
            self.route.replace("/v1/stream/{path}", f"/v1/stream/runs/{run}")
            .replace("/runs/{id}", f"/runs/{run}")
            .replace("{path:path}", f"runs/{run}")
            .replace("{rest:path}", "nothing")
            .replace("{file}", "page.js")
            .replace("{id}", run)
        )

    @property
    def about_a_run(self) -> bool:
        return self.route in STREAMS or self.route.startswith("/runs/{id}/")

    @property
    def body(self) -> dict[str, Any]:
        if self.method == "POST" and (self.route in STREAMS or self.route.endswith("/control")):
            return {"content": b"1"}
        if self.route.startswith("/v1/stream/__ds") and self.method == "PUT":
            return {"json": {"type": "pull-wake", "pattern": "runs/*", "wake_stream": "wake"}}
        return {}


def of_the_framework(api: FastAPI) -> Iterator[Door]:
    def walk(routes: list[Any]) -> Iterator[Door]:
        for route in routes:
            if hasattr(route, "original_router"):
                yield from walk(route.original_router.routes)
            else:
                yield from (Door(method, route.path) for method in route.methods - {"OPTIONS"})

    yield from walk(api.routes)


def of_the_streams() -> Iterator[Door]:
    app = Gateway(load(), "postgres://nowhere")
    for method in app._streams._methods:
        yield from (Door(method, route) for route in STREAMS)
        if method != "DELETE":
            yield Door(method, "/runs/{id}/control")
    yield from (Door("POST", f"/runs/{{id}}{part.value}") for part in Part if part is not Part.CONTROL)


DOORS = sorted({*of_the_framework(Gateway(load(), "postgres://nowhere").api.now()), *of_the_streams()})


def test_every_route_has_a_rule_and_every_rule_a_route() -> None:
    ruled = {Door(method, route) for route, methods in ROUTES.items() for method in methods}
    ruled |= {Door(method, route) for route in STREAMS for method in STREAM}
    ruled |= {Door(method, f"/runs/{{id}}{part.value}") for part, methods in BELOW_A_RUN.items() for method in methods}
    # The framework answers HEAD for its own pages, as for GET.
    pages = {door for door in DOORS if door.method == "HEAD" and Door("GET", door.route) in ruled}
    assert ruled - {door for door in ruled if door.route in RESERVED} == {
        door for door in DOORS if door not in pages - ruled and door.route not in RESERVED
    }
    assert set(BELOW_A_RUN) == set(Part)
    assert {door.need for door in DOORS} == {"nothing", "optional", "own", "each", *get_args(Scope)}


@pytest.fixture
async def run(client: Client) -> str:
    id = uuid4().hex
    made = await client("POST", "/runs", headers=ALL, json={"id": id, "metadata": {"of": OURS}})
    assert made.status_code == 201, made.text
    assert (await client("POST", f"/runs/{id}", headers=ALL | JSON, json=[OURS])).status_code == 204
    return id


async def ask(client: Client, door: Door, run: str, headers: dict[str, str], query: str = "") -> httpx.Response:
    return await client(door.method, door.url(run) + query, headers=JSON | headers, **door.body)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def refused(response: httpx.Response) -> tuple[int, str]:
    if response.request.method == "HEAD":
        return response.status_code, ""
    return response.status_code, response.json()["error"]["type"]


def expected(door: Door, status: int, type: str) -> tuple[int, str]:
    return status, "" if door.method == "HEAD" else type


@pytest.mark.parametrize("gateway", ["direct"], indirect=True)
@pytest.mark.parametrize("door", DOORS, ids=lambda door: f"{door.method} {door.route}")
async def test_a_door_opens_to_who_has_the_scope_and_to_nobody_else(
    client: Client, gateway: Running, door: Door, run: str
) -> None:
    tokens = gateway.app._auth._tokens
    soon = int(time.time()) + 60
    this_run = await tokens.sign(Capability("", f"runs/{run}", True, soon))
    other_run = await tokens.sign(Capability("", "runs/another", True, soon))
    expired = await tokens.sign(Capability("", f"runs/{run}", True, int(time.time()) - 1))
    if door.need == "nothing":
        for headers in ({}, {"authorization": "Basic x"}, as_key("reader")):
            assert (await ask(client, door, run, headers)).status_code not in (401, 403)
        return
    if door.need == "optional":
        for headers in ({}, as_key("reader"), {"authorization": f"Bearer {this_run}"}):
            assert (await ask(client, door, run, headers)).status_code == 200
        for headers in ({"authorization": "Bearer nobody-knows-this-one"}, {"authorization": f"Bearer {expired}"}):
            assert (await ask(client, door, run, headers)).status_code == 401
        return
    if door.need == "each":  # what is not there says so in the response, which ends then
        query = f"?live=sse&stream=runs/{run}-not-there"
        body: dict[str, Any] = {}
        if door.method == "POST":
            query, body = "?live=sse", {"json": {"streams": [f"runs/{run}-not-there"]}}
        for headers, status in (({}, 401), (as_key("reader"), 200), (as_key("writer"), 403), (bearer(this_run), 403)):
            answer = await client(door.method, door.url(run) + query, headers=headers, **body)
            assert answer.status_code == status, answer.text
        return
    if door.need == "own":
        for headers in ({}, ALL, {"authorization": f"Bearer {this_run}"}):
            answer = await ask(client, door, run, headers)
            assert (answer.status_code, answer.json()["error"]["code"]) in (
                (401, "TOKEN_INVALID"),
                (400, "INVALID_REQUEST"),
            )
        return
    every = "read write control admin"
    for headers, query, status, type in (
        ({}, "", 401, "credential_missing"),
        ({"authorization": "Basic YTpi"}, "", 401, "credential_malformed"),
        ({"authorization": "Bearer a b"}, "", 401, "credential_malformed"),
        (as_key("reader"), "?token=x", 401, "credential_malformed"),
        ({"authorization": "Bearer nobody-knows-this-one"}, "", 401, "token_invalid"),
        ({}, f"?token={as_key('all')['authorization'][7:]}", 401, "token_invalid"),
        (as_jwt(every, lives=-60), "", 401, "token_expired"),
        ({}, f"?token={expired}", 401, "token_expired"),
        ({"authorization": f"Bearer {expired}"}, "", 401, "token_expired"),
        (as_key(f"all-but-{door.need}"), "", 403, "scope_missing"),
        (as_jwt(every.replace(door.need, "")), "", 403, "scope_missing"),
    ):
        assert refused(await ask(client, door, run, headers, query)) == expected(door, status, type), headers
    others = "wrong_stream" if door.need in ("read", "control") else "scope_missing"
    assert refused(await ask(client, door, run, {}, f"?token={other_run}")) == expected(door, 403, others)
    patterned = as_jwt(every, runs=["another", "*-else"])
    if door not in (Door("POST", "/runs"), Door("POST", "/v1/appends")):  # whose bodies say what is meant
        assert refused(await ask(client, door, run, patterned)) == expected(door, 403, "wrong_stream")
    untouched = await client("GET", f"/runs/{run}", headers=ALL)
    assert untouched.json() == [OURS], "a refusal changes nothing"
    if door.about_a_run and door.need in ("read", "control"):
        assert (await ask(client, door, run, {}, f"?token={this_run}")).status_code not in (401, 403)
    alone = {"read": "reader", "write": "writer", "control": "controller", "admin": "admin"}[door.need]
    scopes: str = door.need
    if door.route.endswith(Part.TOKEN.value):
        alone, scopes = "all-but-admin", "read write"  # who cannot read lets nobody read
    right = as_jwt(scopes, runs=[f"{run[:8]}*"]) if door.about_a_run else as_jwt(scopes)
    for headers in (right, as_key(alone)):
        assert (await ask(client, door, run, headers)).status_code not in (401, 403), headers


@pytest.mark.parametrize("gateway", ["direct"], indirect=True)
@pytest.mark.parametrize("door", DOORS, ids=lambda door: f"{door.method} {door.route}")
async def test_a_foreign_tenant_finds_nothing_behind_any_door(client: Client, door: Door, run: str) -> None:
    answer = await ask(client, door, run, as_key("all@globex"))
    assert run not in answer.text.replace(door.url(run), "") or door.method == "PUT"
    assert OURS not in answer.text
    if door.about_a_run:
        assert answer.status_code == (201 if door.method == "PUT" and door.route in STREAMS else 404)
    assert (await client("GET", f"/runs/{run}", headers=ALL)).json() == [OURS]


# Written out: whatever the rules are changed to, this is what they must say.
READ, WRITE, CONTROL, ADMIN = "reader", "writer", "controller", "admin"
WRITTEN_OUT = [
    ("GET", "/runs/{run}", READ, 200),
    ("GET", "/runs/{run}", WRITE, 403),
    ("GET", "/runs/{run}", None, 401),
    ("GET", "/runs/{run}?offset=-1&live=sse", None, 401),
    ("GET", "/runs/{run}?offset=now&live=long-poll", CONTROL, 403),
    ("GET", "/runs/{run}?meta", WRITE, 403),
    ("HEAD", "/runs/{run}", ADMIN, 403),
    ("POST", "/runs/{run}", WRITE, 204),
    ("POST", "/runs/{run}", READ, 403),
    ("POST", "/runs/{run}", None, 401),
    ("POST", "/v1/stream/runs/{run}", READ, 403),
    ("PUT", "/runs/{run}-2", READ, 403),
    ("DELETE", "/runs/{run}", WRITE, 403),
    ("DELETE", "/runs/{run}", None, 401),
    ("POST", "/runs/{run}/cancel", WRITE, 403),
    ("POST", "/runs/{run}/cancel", CONTROL, 202),
    ("POST", "/v1/stream/runs/{run}/cancel", WRITE, 403),
    ("POST", "/runs/{run}/token", READ, 403),
    ("POST", "/runs/{run}/token", WRITE, 403),
    ("POST", "/runs/{run}/token", "all-but-admin", 201),
    ("POST", "/runs", READ, 403),
    ("GET", "/runs", WRITE, 403),
    ("GET", "/runs", None, 401),
    ("GET", "/metrics", READ, 403),
    ("GET", "/metrics", ADMIN, 200),
    ("GET", "/docs", None, 200),
    ("GET", "/openapi.json", None, 401),
    ("GET", "/health", None, 200),
    ("GET", "/ready", None, 200),
    ("PUT", "/v1/stream/__ds/subscriptions/s", WRITE, 403),
    ("GET", "/v1/stream/__ds/jwks.json", None, 200),
    ("OPTIONS", "/runs/{run}", None, 204),
    ("GET", "/nothing/here", None, 401),
    ("GET", "/nothing/here", READ, 404),
    ("PATCH", "/runs/{run}", WRITE, 405),
    ("GET", "/metrics%0A", ADMIN, 404),
    ("GET", "/%2Fmetrics", READ, 404),
]


@pytest.mark.parametrize(("method", "path", "who", "status"), WRITTEN_OUT)
async def test_written_out(client: Client, run: str, method: str, path: str, who: str | None, status: int) -> None:
    options: dict[str, Any] = {"content": b"1"} if method == "POST" and path.endswith("{run}") else {}
    headers = JSON | (as_key(who) if who else {})
    for _ in range(2):  # the second time, the credential is known
        answer = await client(method, path.replace("{run}", run), headers=headers, **options)
        assert answer.status_code == status, answer.text


async def test_health_says_nothing_that_matters(client: Client) -> None:
    assert (await client("GET", "/health")).json() == {"status": "ok"}
    plain = {"machine", "database", "news", "draining"}
    some_runs = as_jwt("read write control admin", runs=["*"])
    for headers in ({}, as_key(READ), as_key("all-but-admin"), some_runs):
        assert set((await client("GET", "/ready", headers=headers)).json()) == plain
    assert set((await client("GET", "/ready", headers=as_key(ADMIN))).json()) == {*plain, "durability"}


async def test_a_principal_of_some_runs_reaches_no_other(client: Client, run: str) -> None:
    mine = f"mine-{uuid4().hex}"
    ada = as_jwt("read write control", runs=["mine-*"])
    made = await client("POST", "/runs", headers=ada, json={"id": mine})
    assert (made.status_code, "token" in made.json()) == (201, True)
    for headers, method, path, body in (
        (ada, "POST", "/runs", {"id": run}),
        (ada, "POST", "/runs", {}),  # an id of the gateway's own choice
        (ada | {"stream-forked-from": f"/runs/{run}"}, "PUT", f"/runs/{mine}-2", None),
        (ada, "GET", f"/v1/stream/runs/{run}", None),
        (ada, "GET", "/runs", None),
        (ada, "PUT", f"/v1/stream/{mine}", None),
        (ada, "POST", f"/runs/{run}/heartbeat", None),
        (as_jwt("write", runs=["*/heartbeat"]), "POST", f"/runs/{run}/heartbeat", None),
        (ada, "PUT", "/v1/stream/__ds/subscriptions/s", {"type": "pull-wake", "pattern": "**", "wake_stream": "w"}),
    ):
        for _ in range(2):
            answer = await client(method, path, headers=headers, **({} if body is None else {"json": body}))
            assert refused(answer) == (403, "wrong_stream"), path


async def test_two_credentials_at_once_are_none(client: Client, run: str) -> None:
    headers = [("authorization", ALL["authorization"]), ("authorization", as_key("reader")["authorization"])]
    answer = await client("GET", f"/runs/{run}", headers=headers)
    assert refused(answer) == (401, "credential_malformed")
    answer = await client("GET", f"/runs/{run}?token=a&token=b")
    assert refused(answer) == (401, "credential_malformed")


async def test_of_many_appends_each_is_let_in_by_itself(client: Client, run: str) -> None:
    other = uuid4().hex
    await client("POST", "/runs", headers=ALL, json={"id": other})
    lines = "".join(f'{{"stream":"{path}"}}\n1\n' for path in (f"runs/{run}", f"runs/{other}", "v1/a", "runs/none"))
    headers = as_jwt("write", runs=[run, "none"]) | {"content-type": "application/x-ndjson"}
    answer = await client("POST", "/v1/appends", headers=headers, content=lines)
    told = {line["append"]: line.get("error", {}).get("type") for line in map(json.loads, answer.text.splitlines())}
    assert told == {0: None, 1: "wrong_stream", 2: "wrong_stream", 3: "stream_not_found"}
    assert (await client("GET", f"/runs/{run}", headers=ALL)).json() == [OURS, 1]
    assert (await client("GET", f"/runs/{other}", headers=ALL)).json() == []
    foreign = as_key("all@globex") | {"content-type": "application/x-ndjson"}
    answer = await client("POST", "/v1/appends", headers=foreign, content=lines)
    assert {line["status"] for line in map(json.loads, answer.text.splitlines())} == {404}
