"""What clients send, as the world writes it, and what they get: one gateway for each way in, a row for each input."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.log.page_arrays import MANY
from tests.servers import PATIENCE, PROTOCOLS, Running, client_of, following, serving, until

JSON = {"content-type": "application/json"}
HALF = b'{"text":"\\ud83d"}'
LONG = b'{"text":"%b"}' % (b"x" * 70_000)

Headers = dict[str, str]


@pytest.fixture(scope="module", params=list(PROTOCOLS))
def gateway(database_of_all: str, request: pytest.FixtureRequest) -> Iterator[Running]:
    with serving(database_of_all, request.param) as running:
        yield running


@pytest.fixture(scope="module")
def elsewhere(database_of_all: str) -> Iterator[Running]:
    """Another Machine, which hears of everything by NOTIFY."""
    with serving(database_of_all, "direct", sweep_interval=60) as running:
        yield running


@pytest_asyncio.fixture
async def http(gateway: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE) as client:
        yield client


@pytest.fixture
def run(request: pytest.FixtureRequest, gateway: Running) -> str:
    return f"/runs/{abs(hash((request.node.name, gateway.port)))}"


# What is posted to a JSON stream -> the events that it becomes, or type and first words of the refusal.
POSTED: dict[str, tuple[bytes, list[bytes] | tuple[str, str]]] = {
    "half an emoji, as JSON.stringify writes it": (HALF, [HALF]),
    "half an emoji among good neighbours": (b'[{"n": 1},%b,{"n":2}]' % HALF, [b'{"n": 1}', HALF, b'{"n":2}']),
    "half an emoji in a long body": (b"[%b,%b]" % (LONG, HALF), [LONG, HALF]),
    "a number beyond a double": (b"[1,1e999]", ("invalid_json", "Event 1, counted from 0: A number is larger")),
    "a NUL in a string": (b'{"a":"\\u0000"}', [b'{"a":"\\u0000"}']),
    "NaN, as Python writes it": (b'[1,{"a":NaN}]', ("invalid_json", "Event 1, counted from 0: NaN is not JSON")),
    "Infinity": (b"[Infinity,1]", ("invalid_json", "Event 0, counted from 0: Infinity is not JSON")),
    "half a character of UTF-8": (b'[1,"\xf0\x9f"]', ("invalid_json", "Event 1, counted from 0: It is not UTF-8")),
    "lines of JSON": (b'{"a":1}\n{"b":2}', ("invalid_json", "Extra data at line 2")),
    "a comma too many, far into a long body": (
        b"[%b,1,]" % LONG,
        ("invalid_json", "Event 2, counted from 0: Expecting value"),
    ),
}


@pytest.mark.parametrize("row", POSTED)
@pytest.mark.parametrize("way", ["POST", "PUT", "close"])
async def test_a_body_is_kept_to_the_byte_or_refused(http: httpx.AsyncClient, run: str, way: str, row: str) -> None:
    body, expected = POSTED[row]
    if way == "PUT":
        answer = await http.put(run, headers=JSON, content=body)
    else:
        await http.put(run, headers=JSON)
        closing = {"stream-closed": "true"} if way == "close" else {}
        answer = await http.post(run, headers=JSON | closing, content=body)
    if isinstance(expected, tuple):
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (400, expected[0])
        assert error["details"].startswith(expected[1])
        expected = []
        await http.put(run, headers=JSON)
    else:
        assert answer.status_code in (201, 204)
    kept = b"[%b]" % b",".join(expected)
    assert (await http.get(run)).content == kept
    if len(kept) < 70_000:
        await http.post(run, headers=JSON | {"stream-closed": "true"})
        events = (await http.get(run, params={"offset": "-1", "live": "sse"})).content
        assert not expected or b"event: data\ndata:%b\n" % kept in events


CODING, LINES = {"content-encoding": "gzip"}, {"content-type": "application/x-ndjson"}
GZIP, BR = JSON | CODING, JSON | {"content-encoding": "br"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
CODED = (415, "unsupported_coding", "identity")


def bad(words: str) -> tuple[int, str, str]:
    return 400, "invalid_request", words


# Requests that change nothing -> status, type, and words of the details.
REFUSED: dict[str, tuple[str, str, Headers, bytes, tuple[int, str, str]]] = {
    "a POST with gzip": ("POST", "{run}", GZIP, gzip.compress(b"1"), CODED),
    "a PUT with br": ("PUT", "{run}/x", BR, b"1", CODED),
    "POST /runs with gzip": ("POST", "/runs", GZIP, b"{}", CODED),
    "a cancel with gzip": ("POST", "{run}/cancel", GZIP, b"{}", CODED),
    "a token with gzip": ("POST", "{run}/token", GZIP, b"{}", CODED),
    "many appends with gzip": ("POST", "/v1/appends", LINES | CODING, b"{}", CODED),
    "many streams with gzip": ("POST", "/v1/stream?live=sse", GZIP, b"{}", CODED),
    "a subscription with gzip": ("PUT", "/v1/stream/__ds/subscriptions/a", GZIP, b"{}", CODED),
    "curl -d without a type": (
        "POST", "{run}", FORM, b"1",
        (409, "content_type_mismatch", "application/x-www-form-urlencoded, the stream's application/json"),
    ),
    "no type at all": ("POST", "{run}", {}, b"1", bad("Content-Type is required")),
    "a type that is none": ("POST", "{run}", {"content-type": "json"}, b"1", bad("media type")),
    "a PUT with a type that is none": ("PUT", "{run}/x", {"content-type": "json"}, b"", bad("media type")),
    "a PUT of another type": (
        "PUT", "{run}", {"content-type": "text/plain"}, b"",
        (409, "stream_exists", "Its content type is application/json; the request's is text/plain"),
    ),
    "a run of a Unicode type": ("POST", "/runs", JSON, '{"contentType":"ä/b"}'.encode(), bad("media type")),
    "a run of a type of 1 MB": ("POST", "/runs", JSON, b'{"contentType":"a/%b"}' % (b"b" * 1_000_000), bad("131072")),
    "a run of a type of 300": ("POST", "/runs", JSON, b'{"contentType":"a/%b"}' % (b"b" * 300), bad("255")),
    "a run called ..": ("POST", "/runs", JSON, b'{"id":".."}', bad("segment")),
    "a run called %2e": ("POST", "/runs", JSON, b'{"id":"%2e"}', bad("segment")),
    "a PUT of %2e%2e": ("PUT", "/v1/stream/a/%2e%2e/b", JSON, b"", bad("segment")),
}  # fmt: skip


@pytest.mark.parametrize("row", REFUSED)
async def test_a_request_is_refused_and_says_why(http: httpx.AsyncClient, run: str, row: str) -> None:
    method, path, headers, body, (status, type, words) = REFUSED[row]
    await http.put(run, headers=JSON)
    target = httpx.URL(str(http.base_url)).copy_with(raw_path=path.format(run=run).encode())
    answer = await http.request(method, target, headers=headers, content=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (status, type)
    assert words in error["details"]
    if status == 415:
        assert answer.headers["accept-encoding"] == "identity"
    assert (await http.get(run)).content == b"[]"


async def test_identity_is_no_coding(http: httpx.AsyncClient, run: str) -> None:
    await http.put(run, headers=JSON)
    answer = await http.post(run, headers=JSON | {"content-encoding": "Identity"}, content=b"1")
    assert answer.status_code == 204


async def test_a_put_without_a_type_says_what_it_made(http: httpx.AsyncClient, run: str) -> None:
    answer = await http.put(run)
    assert (answer.status_code, answer.headers["content-type"]) == (201, "application/octet-stream")


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ("traceparent,tracestate,baggage,sentry-trace", True),
        ("x-datadog-trace-id, x-datadog-parent-id, b3, x-request-id, x-requested-with", True),
        ("cache-control,pragma,priority,prefer,idempotency-key", True),
        ("a b", False),
        ("x-a,,x-b", False),
        ("x-" + "a" * 4000, False),
    ],
)
async def test_a_preflight_allows_what_is_asked_for(
    http: httpx.AsyncClient, run: str, asked: str, allowed: bool
) -> None:
    headers = {"origin": "https://app.example", "access-control-request-method": "POST"}
    answer = await http.options(run, headers=headers | {"access-control-request-headers": asked})
    names = [name.strip() for name in answer.headers["access-control-allow-headers"].split(",")]
    assert answer.status_code == 204
    assert "producer-id" in names
    assert all(name.strip() in names for name in asked.split(",")) == allowed


async def test_a_run_that_ends_with_half_an_emoji_ends(http: httpx.AsyncClient, run: str) -> None:
    await http.put(run, headers=JSON)
    end = rb'{"type":"run_end","isError":true,"result":{"a":"\ud83d","b":"\u0000","c":1.50},"error":"\\ud83d\udc00"}'
    answer = await http.post(run, headers=JSON | {"stream-closed": "true"}, content=end)
    assert answer.status_code == 204
    assert (await http.get(run)).content == b"[%b]" % end
    record = await http.get(run + "?meta")
    fields: dict[str, Any] = json.loads(record.content)
    assert (fields["status"], fields["isError"]) == ("errored", True)
    assert rb'"result":{"a":"\ud83d","b":"\u0000","c":1.50}' in record.content
    assert rb'"error":"\\ud83d\udc00"' in record.content


async def test_half_an_emoji_goes_every_way(http: httpx.AsyncClient, elsewhere: Running, run: str) -> None:
    """By a producer, which repeats itself; as rows and as a page; live and late, on this Machine and on another."""
    await http.put(run, headers=JSON)
    page = [b'{"n":%d,"text":"\\ud83d","z":"\\u0000"}' % n for n in range(MANY + 6)]
    live = {"offset": "-1", "live": "sse"}
    async with client_of(elsewhere) as other, following(other, f"{run}?offset=-1&live=sse") as reader:
        waiting = asyncio.create_task(other("GET", f"{run}?offset=-1&live=long-poll"))
        await until(lambda: len(elsewhere.app._hub.tails[run[1:]].waiting) > 0)
        producer = {"producer-id": "p", "producer-epoch": "0", "producer-seq": "0"}
        for status in (200, 204):
            answer = await http.post(run, headers=JSON | producer, content=HALF)
            assert answer.status_code == status
        assert (await waiting).content == b"[%b]" % HALF
        answer = await http.post(
            run, headers=JSON | producer | {"producer-seq": "1"}, content=b"[%b]" % b",".join(page)
        )
        assert answer.status_code == 200
        end = await http.post(run, headers=JSON | {"stream-closed": "true"}, content=b"[%b]" % HALF)
        assert end.status_code == 204
        everything = b",".join([HALF, *page, HALF])
        seen = await reader.end()
        assert b",".join([event.data[1:-1].encode() for event in seen.events if event.type == "data"]) == everything
        assert elsewhere.app._hub.comparison.missed == 0
        for answer in (await http.get(run), await other("GET", run)):
            assert answer.content == b"[%b]" % everything
        assert page[-1] in (await http.get(run, params=live)).content
