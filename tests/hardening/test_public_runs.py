"""Runs for everybody, and caches in front: nobody is shown more by them, and no cache is given what is for one alone.

Each attempt is a row. What a cache may keep of an answer has to be what everybody is answered at that address.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.auth.read_tokens import Capability
from tests.servers import PATIENCE, Running, serving

JSON = {"content-type": "application/json"}
KEYS = {name: f"secret-of-the-{name}-key" for name in ("all", "reader", "acme")}
SCOPES = {"all": "all:read,write,control,admin", "reader": "reader:read", "acme": "acme@acme:read,write"}
SECRET, ACMES = "the-secret", "the-secret-of-acme"
OPEN = "what-everybody-may-know " * 60  # of a size that is compressed


def key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[name]}"}


@pytest.fixture(scope="module")
def gateway(database_of_all: str) -> Iterator[Running]:
    settings: dict[str, Any] = {
        "auth": "keys",
        "keys": " ".join(f"{SCOPES[name]}:{secret}" for name, secret in KEYS.items()),
        "public_runs": "pub-*",
        "cors_origins": "https://a.example,https://b.example",
        "long_poll_timeout": 0.1,
        "sse_max_age": 0.2,
    }
    with serving(database_of_all, "direct", **settings) as running:
        with httpx.Client(base_url=running.url, timeout=PATIENCE, headers=JSON) as http:
            for run, text, who in (("pub-1", OPEN, "all"), ("priv", SECRET, "all"), ("pub-1", ACMES, "acme")):
                body = {"id": run, "metadata": {"of": SECRET}}
                assert http.post("/runs", headers=key(who), json=body).status_code == 201
                assert http.post(f"/runs/{run}", headers=key(who), json=[{"text": text}]).status_code == 204
            for run in ("pub-1", "priv"):
                assert http.post(f"/runs/{run}/control", headers=key("all"), json=[SECRET]).status_code == 204
        yield running


@pytest_asyncio.fixture
async def http(gateway: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE) as client:
        yield client


def may_be_kept(answer: httpx.Response) -> bool:
    """Whether a cache may give it to others. Some keep even what does not say so."""
    told = {each.strip().partition("=")[0].lower() for each in answer.headers.get("cache-control", "").split(",")}
    return not told & {"no-store", "private", "no-cache"}


READS = (
    *("", "?offset=-1", "?offset=now", "?offset=-1&tail=1", "?offset=-1&fold=type:text", "?offset=-1&live=sse"),
    *("?offset=-1&live=long-poll", "?offset=now&live=long-poll", "?offset=-1&live=sse&named=false"),
    *("?meta", "?meta&wait=0.1", "?meta=activity", "?%6deta", "?offset=-1&cursor=999999", "?offset=-1&wait=1"),
)
CLOSED = (
    *("/runs/priv", "/v1/stream/runs/priv", "/runs/%70riv", "/runs/pub-1/control", "/v1/stream/runs/pub-1/control"),
    *("/runs/pub-1%2fcontrol", "/runs/pub-1/../priv", "/runs/pub-1%2f..%2fpriv", "/runs/pub-1/%2e%2e/priv"),
    *("/runs/xpub-1", "/runs/PUB-1", "/RUNS/pub-1", "//runs/pub-1", "/runs//pub-1", "/runs/pub-1/", "/runs/pub-1%00"),
    *("/runs/priv;pub-1", "/runs/priv%3fpub-1", "/runs/priv%23pub-1", "/runs/priv/pub-1", "/runs/acme%1fruns%2fpub-1"),
    *("/v1/stream/pub-1", "/v1/stream/acme%1fruns/pub-1", "/v1/stream/pub-1/runs/priv", "/runs/pub-1%0d%0ax"),
    *("/runs", "/runs/pub-1/cancel", "/runs/pub-1/token", "/runs/pub-1/heartbeat", "/openapi.json", "/metrics"),
)


@pytest.mark.parametrize("path", CLOSED)
async def test_nothing_else_is_open_by_any_spelling(gateway: Running, path: str) -> None:
    """To whoever shows nothing; `raw`, since a client mends what it takes for a mistake."""
    for query in ("", "?offset=-1", "?offset=-1&live=long-poll", "?meta", "?live=sse&metadata.of=x"):
        for method in ("GET", "HEAD"):
            answer = await gateway.get_raw(path + query, method=method)
            status = int(answer[9:12])
            assert status >= 400 or b"text/html" in answer, (method, path, query, answer)
            assert SECRET.encode() not in answer
            assert b"no-store" in answer, (method, path, query, answer)


@pytest.mark.parametrize("query", READS)
async def test_a_cache_is_given_only_what_everybody_is_told(
    gateway: Running, http: httpx.AsyncClient, query: str
) -> None:
    """By whom it is asked, for which run, and in which way."""
    tokens = gateway.app._auth._tokens
    people: list[tuple[str, dict[str, str], str]] = [("nobody", {}, "")]
    people += [(name, key(name), "") for name in KEYS]
    people.append(("a wrong key", {"authorization": "Bearer nobodys-key-at-all-here"}, ""))
    for run in ("pub-1", "priv"):
        token = await tokens.sign(Capability("", f"runs/{run}", True, int(time.time()) + 60))
        more = "&" if query else "?"
        people += [(f"a link to {run}", {}, f"{more}token={token}"), (f"a token of {run}", bearer(token), "")]
    for run in ("pub-1", "priv"):
        for path in (f"/runs/{run}", f"/v1/stream/runs/{run}"):
            for who, headers, more in people:
                answer = await http.get(path + query + more, headers=headers)
                if ACMES in answer.text:
                    assert who == "acme"
                if may_be_kept(answer):
                    assert (who, run) == ("nobody", "pub-1"), answer.headers
                    assert SECRET not in answer.text
                if "live=sse" in query or "meta" in query.replace("%6d", ""):
                    assert not may_be_kept(answer)
                if run == "priv" and who in ("nobody", "acme", "a wrong key", "a link to pub-1", "a token of pub-1"):
                    assert SECRET not in answer.text, who


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


POISON: dict[str, dict[str, str]] = {
    "another origin": {"origin": "https://b.example"},
    "an evil origin": {"origin": "https://evil.example"},
    "another host": {"host": "evil.example"},
    "a host by a proxy": {"x-forwarded-host": "evil.example", "x-forwarded-proto": "javascript"},
    "forwarded": {"forwarded": "host=evil.example;proto=https;for=1.1.1.1"},
    "another url": {"x-original-url": "/runs/priv", "x-rewrite-url": "/runs/priv", "x-forwarded-uri": "/runs/priv"},
    "another method": {"x-http-method-override": "DELETE", "x-method-override": "PUT", "x-http-method": "HEAD"},
    "a page": {"accept": "text/html"},
    "events": {"accept": "text/event-stream"},
    "events first": {"accept": "text/event-stream, */*"},
    "a coding": {"accept-encoding": "gzip"},
    "another coding": {"accept-encoding": "zstd, br;q=0.5, *;q=0"},
    "no coding": {"accept-encoding": "identity;q=0"},
    "a range": {"range": "bytes=0-1"},
    "a place": {"last-event-id": f"{0:016}_{1:016}"},
    "a cookie": {"cookie": "session=1"},
    "no cache": {"cache-control": "no-cache", "pragma": "no-cache"},
    "since": {"if-modified-since": "Wed, 21 Oct 2065 07:28:00 GMT", "if-range": '"x"'},
    "another language": {"accept-language": "xx", "accept-charset": "utf-7"},
    "another connection": {"te": "trailers", "upgrade": "h2c", "via": "1.0 evil"},
    "another type": {"content-type": "text/html", "content-language": "xx"},
    "another key": {"x-api-key": "x", "proxy-authorization": "Bearer x"},
    "a stream's own": {"stream-closed": "true", "stream-ttl": "0", "run-lease": "1", "stream-seq": "9"},
    "an order": {"run-gateway-owner": f"v1.1.1.{'0' * 64}", "run-gateway-tenant": "acme"},
    "a trace": {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "x-request-id": "<script>"},
}


@pytest.mark.parametrize("query", ["", "?offset=-1", "?offset=-1&live=long-poll", f"?offset={0:016}_{1:016}"])
async def test_no_header_of_one_client_reaches_the_next_by_a_cache(http: httpx.AsyncClient, query: str) -> None:
    """What may be kept is what all are given who send other headers, but for those that `Vary` names."""
    path = f"/runs/pub-1{query}"
    plain = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "x"}

    def told(answer: httpx.Response) -> dict[str, str]:
        return {name: value for name, value in answer.headers.items() if name != "date"}

    usual = await http.get(path, headers=plain)
    assert may_be_kept(usual) == (usual.status_code in (200, 204))
    for what, headers in POISON.items():
        answer = await http.get(path, headers=plain | headers)
        if not may_be_kept(answer):
            continue
        varied = {each.strip().lower() for each in usual.headers.get("vary", "").split(",")}
        assert varied == {each.strip().lower() for each in answer.headers.get("vary", "").split(",")}, what
        if varied & headers.keys():
            assert answer.content == usual.content, what  # as it is read
            continue
        assert (answer.status_code, answer.content, told(answer)) == (usual.status_code, usual.content, told(usual)), (
            what
        )
    for headers in POISON.values():
        assert (await http.get(path, headers=plain | headers)).content in (usual.content, b"") or "accept" in headers
