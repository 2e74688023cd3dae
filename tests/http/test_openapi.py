"""/openapi.json against what the parser knows, what can be refused, and what answers carry."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from gateway.app import Gateway
from gateway.auth.errors import (
    CredentialMalformed,
    CredentialMissing,
    ScopeMissing,
    TokenExpired,
    TokenInvalid,
    WrongStream,
)
from gateway.http import cors
from gateway.http.openapi import document as openapi
from gateway.http.openapi import stream_operations as operations
from gateway.http.openapi.docs import Document, docs_router
from gateway.http.upstream import BadGateway, GoesRound, UpgradeNotPassed
from gateway.owner.errors import AmbiguousPath, NoOwner, NotOwner, OwnerLost, OwnerMoved, OwnerSilent
from gateway.protocol import errors
from gateway.protocol.append import APPEND_HEADERS
from gateway.protocol.create import CREATE_HEADERS
from gateway.protocol.errors import ProtocolError
from gateway.protocol.read import Live, parse_read
from gateway.relay.errors import NoRecording, TooManyRecordings
from gateway.runs.queries import parse_list
from gateway.settings import load
from gateway.subscriptions.errors import LinkingGoesOn
from tests.refusals import refusals
from tests.servers import Client

ROUTES = ("/v1/stream/{path}", "/runs/{id}")
METHODS = set(operations.OPERATIONS)


@pytest.fixture
def document() -> dict[str, Any]:
    return openapi.describe(FastAPI(title="t", version="1"))


def parameters(document: dict[str, Any], route: str, method: str, place: str) -> set[str]:
    found = document["paths"][route][method]["parameters"]
    return {parameter["name"].lower() for parameter in found if parameter["in"] == place}


@pytest.mark.parametrize("route", ROUTES)
def test_described_request_headers_are_those_the_parser_knows(document: dict[str, Any], route: str) -> None:
    assert parameters(document, route, "put", "header") == {name.decode() for name in CREATE_HEADERS}
    assert parameters(document, route, "post", "header") == {name.decode() for name in APPEND_HEADERS}
    for method in ("head", "delete", "options"):
        assert document["paths"][route][method]["parameters"] == []


@pytest.mark.parametrize(("route", "extra"), [(ROUTES[0], set()), (ROUTES[1], {"tail", "meta"})])
def test_a_read_refuses_each_parameter_that_comes_twice(document: dict[str, Any], route: str, extra: set[str]) -> None:
    query = parameters(document, route, "get", "query")
    headers = parameters(document, route, "get", "header")
    assert query == {"offset", "live", "cursor", "fold", "named", "wait"} | extra
    assert headers == {"last-event-id", "if-none-match", "stream-next-offset", "stream-closed"}
    for name in query - {"meta"}:
        with pytest.raises(errors.InvalidRequest):
            parse_read("s", [], f"{name}=1&{name}=1".encode(), with_tail=True)
    for name in headers:
        with pytest.raises(errors.InvalidRequest):
            parse_read("s", [(name.encode(), b"1")] * 2, b"", with_tail=True)


def test_the_values_of_live_are_those_that_the_parser_knows() -> None:
    schema, _ = operations.REQUEST_FIELDS["live"]
    assert set(schema["enum"]) == {live.value for live in Live} - {""}


def test_every_refusal_of_the_tree_is_described_with_its_status(document: dict[str, Any]) -> None:
    routes = (*ROUTES, *operations.BELOW_A_RUN)
    found = [operation for route in routes for name, operation in document["paths"][route].items() if name in METHODS]
    # What is answered where there is no operation to describe; and what FastAPI describes.
    elsewhere = {
        errors.RouteNotFound,
        errors.MethodNotAllowed,
        errors.MalformedHttp,
        errors.HeadTooLarge,
        errors.RequestTimeout,
        errors.TooManyConnections,
        BadGateway,
        GoesRound,
        UpgradeNotPassed,
        NoRecording,
        TooManyRecordings,
        errors.RunExists,
        errors.TooManyFollowed,
        errors.TooManyLists,
        errors.ListTooSlow,
        LinkingGoesOn,
        AmbiguousPath,
        NoOwner,
        NotOwner,
        OwnerLost,
        OwnerMoved,
        OwnerSilent,
    }
    for error in set(refusals()) - elsewhere:
        described = [
            operation["responses"][str(error.status)]["description"]
            for operation in found
            if str(error.status) in operation["responses"]
        ]
        assert any(f"`{error.type}`: {(error.__doc__ or '').strip()}" in text for text in described), error


def test_no_status_is_described_that_no_refusal_has(document: dict[str, Any]) -> None:
    known = {str(error.status) for error in refusals()} | {"200", "201", "204", "304"}
    for route in ROUTES:
        for method in operations.OPERATIONS:
            assert set(document["paths"][route][method]["responses"]) <= known


def test_a_refusals_own_headers_are_described() -> None:
    samples: list[ProtocolError] = [errors.StaleEpoch(1), errors.StreamClosed(1), errors.ProducerSequenceGap(1, 2)]
    samples += [errors.ProducerLost(1, 1), errors.UnsupportedCoding(), errors.OffsetGone(1)]
    samples += [CredentialMissing(), CredentialMalformed(), TokenInvalid(), TokenExpired()]
    samples += [ScopeMissing("read"), WrongStream()]
    for sample in samples:
        names = {name.decode() for name, _ in sample.headers}
        assert names == {name.lower() for name in operations.REFUSAL_HEADERS[type(sample)]}
    assert set(operations.REFUSAL_HEADERS) == {type(sample) for sample in samples}


def test_described_headers_may_be_sent_and_seen_across_origins() -> None:
    preflight = dict(cors.preflight({"headers": []}))
    allowed = {name.strip() for name in preflight[b"access-control-allow-headers"].decode().split(",")}
    asked = {name.lower() for name in operations.REQUEST_FIELDS} - {
        name.lower() for name in operations.QUERY_PARAMETERS
    }
    assert allowed - {"authorization"} == asked
    exposed = {name.strip() for name in cors.EXPOSED.decode().split(",")}
    # What the standard lets every page see, what is about the preflight, and what is not in the description.
    given = {name.lower() for name in operations.RESPONSE_HEADERS if not name.startswith("Access-Control-")}
    seen = {"content-type", "content-encoding", "cache-control", "vary"}
    assert exposed - {"gateway-machine", "x-request-id"} == given - seen
    methods = {name.strip().lower() for name in preflight[b"access-control-allow-methods"].decode().split(",")}
    assert methods == set(operations.OPERATIONS)


@pytest.mark.parametrize("flue", [False, True])
def test_a_list_of_runs_is_described_with_all_that_it_knows(flue: bool) -> None:
    app = Gateway(load(flue=flue, flue_workflows="*"), "postgres://nowhere")
    described = app.api.now().openapi()["paths"]["/runs"]["get"]["parameters"]
    names = {"status", "workflowName", "metadata.NAME", "limit", "cursor", "live"}
    assert {parameter["name"] for parameter in described} == names | ({"source"} if flue else set())
    parse_list("status=active&workflowName=w&metadata.NAME=x&limit=1")
    assert all(parameter["description"] for parameter in described)


def walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for child in node.values():
            yield from walk(child)
    elif isinstance(node, list):
        for child in node:
            yield from walk(child)


@pytest.mark.parametrize("settings", [{}, {"auth": "keys", "keys": f"a:read:{'k' * 40}"}, {"flue": True}])
def test_every_reference_of_the_whole_document_leads_somewhere(settings: dict[str, Any]) -> None:
    document = Gateway(load(**settings), "postgres://nowhere").api.now().openapi()
    references = [node["$ref"] for node in walk(document) if "$ref" in node]
    assert len(references) > 20
    for reference in references:
        root, *steps = reference.split("/")
        target: Any = document
        assert root == "#", reference
        for step in steps:
            target = target[step]


def test_what_is_an_event_stream_is_described_as_one() -> None:
    document = Gateway(load(), "postgres://nowhere").api.now().openapi()
    schemas = [
        content["text/event-stream"]["schema"]
        for node in walk(document)
        if isinstance(content := node.get("content"), dict) and "text/event-stream" in content
    ]
    kinds = [schema["$ref"].rpartition("/")[2] for schema in schemas]
    assert kinds.count("Event") == 3, "streams, runs and their control streams"
    assert kinds.count("Frame") == 3, "many streams, by GET and by POST, and lists that live"


async def test_events_are_what_their_schemas_say(client: Client, document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    run = f"/runs/{(await client('POST', '/runs', json={})).json()['runId']}"
    await client("POST", run, json=[1])
    open = await client("GET", f"{run}?offset=-1&live=long-poll")
    assert open.status_code == 200
    await client("POST", run, headers={"stream-closed": "true"})
    text = (await client("GET", f"{run}?offset=-1&live=sse")).text
    events = [dict(re.findall(r"^(\w+): ?(.*)$", block, re.M)) for block in text.strip().split("\n\n")]
    assert [event["event"] for event in events] == ["data", "control"]
    for event in events:
        assert set(schemas["Event"]["required"]) <= set(event) <= set(schemas["Event"]["properties"])
    control = json.loads(events[1]["data"])
    assert set(schemas["Control"]["required"]) <= set(control) <= set(schemas["Control"]["properties"])


def test_every_reference_resolves_and_every_name_is_unique(document: dict[str, Any]) -> None:
    for node in walk(document):
        if "$ref" in node:
            target: Any = document
            for step in node["$ref"].removeprefix("#/").split("/"):
                target = target[step]
    ids = [node["operationId"] for node in walk(document) if "operationId" in node and "responses" in node]
    assert len(ids) == len(set(ids)) >= 12


async def test_the_examples_are_what_a_reader_is_given(client: Client, document: dict[str, Any]) -> None:
    answers = document["paths"]["/runs/{id}"]["get"]["responses"]
    content = answers["200"]["content"]
    events, record = (content["application/json"]["examples"][name]["value"] for name in ("events", "record"))
    asked = {name: record[name] for name in ("workflowName", "input", "metadata", "lease")}
    run = f"/runs/{(await client('POST', '/runs', json=asked)).json()['runId']}"
    await client("POST", run, json=events[:2])
    await client("POST", run, json=events[2], headers={"stream-closed": "true"})
    stream = content["text/event-stream"]["examples"]["to the end"]["value"]
    assert (await client("GET", f"{run}?offset=-1&live=sse")).text == stream
    assert (await client("GET", run)).json() == events
    assert (await client("GET", f"{run}?meta")).json().keys() == record.keys()
    refused = (await client("GET", "/runs/none")).json()
    assert answers["404"]["content"]["application/json"]["examples"]["stream_not_found"]["value"] == refused


def test_the_document_is_made_once() -> None:
    api = FastAPI(title="t", version="1")
    assert openapi.describe(api) is openapi.describe(api)


async def test_it_is_written_once_in_a_thread_and_has_an_etag() -> None:
    made: list[int] = []

    def describe() -> dict[str, Any]:
        made.append(threading.get_ident())
        return {"openapi": "3.1.0"}

    api = FastAPI(openapi_url=None)
    api.include_router(docs_router(Document(describe)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://h") as http:
        first, *others = await asyncio.gather(*(http.get("/openapi.json") for _ in range(5)))
        assert {answer.content for answer in others} == {first.content} == {b'{"openapi":"3.1.0"}'}
        assert len(made) == 1 and made[0] != threading.get_ident()
        head = await http.head("/openapi.json")
        assert (head.status_code, head.headers["etag"]) == (200, first.headers["etag"])
        known = await http.get("/openapi.json", headers={"if-none-match": first.headers["etag"]})
        assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", first.headers["etag"])
        assert (await http.get("/openapi.json", headers={"if-none-match": '"other"'})).status_code == 200
        assert len(made) == 1


async def test_it_is_served_with_all_routes_and_read_by_docs(client: Client) -> None:
    document = (await client("GET", "/openapi.json")).json()
    assert {*ROUTES, "/health", "/ready"} <= set(document["paths"])
    assert document["openapi"].startswith("3.1")
    page = await client("GET", "/docs")
    assert page.status_code == 200
    assert '"openapi.json"' in (await client("GET", "/docs/start.js")).text
