"""Many streams in one response: who may read each of them."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.auth.people import as_jwt, as_key
from tests.event_source import read
from tests.servers import Client

ALL = as_key("all")
JSON = {"content-type": "application/json"}


@pytest.fixture
async def runs(client: Client) -> dict[str, str]:
    """Closed runs, with a token of each."""
    tokens = {}
    for _ in range(2):
        made = (await client("POST", "/runs", headers=ALL, json={"id": uuid4().hex})).json()
        await client("POST", f"/runs/{made['runId']}", headers=ALL | JSON | {"Stream-Closed": "true"}, json=["secret"])
        tokens[f"runs/{made['runId']}"] = made["token"]
    return tokens


async def follow(client: Client, streams: list[Any], headers: dict[str, str]) -> httpx.Response:
    return await client("POST", "/v1/stream?live=sse", headers=headers, json={"streams": streams})


def told(answer: httpx.Response) -> dict[str, Any]:
    """What was said of each stream: its events, or the type of its error."""
    assert answer.status_code == 200, answer.text
    parts = [part for event in read(answer.content).events for part in json.loads(event.data)]
    return {part["stream"]: part["error"]["type"] if "error" in part else part["events"] for part in parts}


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["type"]


async def test_a_token_of_its_own_opens_a_stream(client: Client, runs: dict[str, str]) -> None:
    one, other = runs
    streams = [{"stream": one, "token": runs[one]}, other]
    assert told(await follow(client, streams, {})) == {one: ["secret"], other: "credential_missing"}
    streams[1] = {"stream": other, "token": runs[one]}
    assert told(await follow(client, streams, {})) == {one: ["secret"], other: "wrong_stream"}
    streams[1] = {"stream": other, "token": "nobody-knows-this"}
    assert told(await follow(client, streams, as_key("reader")))[other] == "token_invalid"
    streams[1] = {"stream": other, "token": runs[other]}
    assert told(await follow(client, streams, {})) == {run: ["secret"] for run in runs}


async def test_the_requests_own_credential_opens_what_it_reaches(client: Client, runs: dict[str, str]) -> None:
    one, other = runs
    assert told(await follow(client, [*runs], as_key("reader"))) == {run: ["secret"] for run in runs}
    assert told(await follow(client, [*runs], {"authorization": f"Bearer {runs[one]}"})) == {
        one: ["secret"],
        other: "wrong_stream",
    }
    some = as_jwt("read", runs=[one.removeprefix("runs/")])
    assert told(await follow(client, [*runs, "other"], some)) == {
        one: ["secret"],
        other: "wrong_stream",
        "other": "wrong_stream",
    }
    assert told(await follow(client, [one], as_key("all@acme"))) == {one: "stream_not_found"}, "of another tenant"


async def test_who_may_read_none_of_them_is_refused(client: Client, runs: dict[str, str]) -> None:
    assert refused(await follow(client, [*runs], {})) == (401, "credential_missing")
    assert refused(await follow(client, [*runs], as_key("writer"))) == (403, "scope_missing")
    one, other = runs
    assert refused(await client("GET", f"/v1/stream?live=sse&stream={one}&token={runs[other]}")) == (
        403,
        "wrong_stream",
    )
    assert told(await client("GET", f"/v1/stream?live=sse&stream={one}&token={runs[one]}")) == {one: ["secret"]}


async def test_a_token_is_for_that_stream_and_no_later_one(client: Client, runs: dict[str, str]) -> None:
    one, other = runs
    await client("DELETE", f"/{one}", headers=ALL)
    await client("PUT", f"/{one}", headers=ALL | JSON | {"Stream-Closed": "true"}, content='["another"]')
    streams = [{"stream": one, "token": runs[one]}, {"stream": other, "token": runs[other]}]
    assert told(await follow(client, streams, {})) == {one: "wrong_stream", other: ["secret"]}


async def test_it_lasts_as_long_as_the_first_credential(client: Client) -> None:
    names = [uuid4().hex for _ in range(2)]
    for name in names:
        await client("PUT", f"/v1/stream/{name}", headers=ALL | JSON)
    short = as_jwt("read", lives=3)["authorization"].removeprefix("Bearer ")
    streams = [names[0], {"stream": names[1], "token": short}]
    answer = await follow(client, streams, as_key("reader"))  # which ends, long before its age
    assert answer.status_code == 200
