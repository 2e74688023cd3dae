"""What a link can do that was shared: it opens one run, for reading, and nothing else however it is used.

Each attempt is a row; nothing that it is not for is told, made or changed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.auth.read_tokens import Capability
from gateway.protocol import base64url
from tests.servers import PATIENCE, Running, serving

JSON = {"content-type": "application/json"}
LINES = {"content-type": "application/x-ndjson"}
SECRET = "of-nobody-elses-business"
ALL = {"authorization": "Bearer secret-of-the-all-key"}
READER = {"authorization": "Bearer secret-of-the-reader"}
KEYS = "all:read,write,control,admin:secret-of-the-all-key reader:read:secret-of-the-reader"
RUNS = ("mine", "other")
SUBSCRIPTION = "/v1/stream/__ds/subscriptions/s"


@pytest.fixture(scope="module")
def gateway(database_of_all: str) -> Iterator[Running]:
    with serving(database_of_all, "direct", auth="keys", keys=KEYS, long_poll_timeout=0.1) as running:
        with httpx.Client(base_url=running.url, timeout=PATIENCE, headers=JSON | ALL) as http:
            for run, text in (("mine", "mine"), ("other", SECRET)):
                http.post("/runs", json={"id": run, "metadata": {"of": text}}).raise_for_status()
                http.post(f"/runs/{run}", json=[text]).raise_for_status()
                http.post(f"/runs/{run}/control", json=[text]).raise_for_status()
        yield running


@pytest.fixture(scope="module")
def link(gateway: Running) -> str:
    """As the page makes it."""
    with httpx.Client(base_url=gateway.url, timeout=PATIENCE) as http:
        token: str = http.post("/runs/mine/token", headers=ALL, json={"ttl": 3600}).json()["token"]
    return token


@pytest_asyncio.fixture
async def http(gateway: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE) as client:
        yield client


async def state(http: httpx.AsyncClient) -> list[str]:
    """All that an attempt could change."""
    found = []
    for target in (
        "/runs",
        "/runs/mine",
        "/runs/other",
        "/runs/mine?meta",
        "/runs/mine/control",
        "/runs/other/control",
    ):
        found.append((await http.get(target, headers=ALL)).text)
    found.append((await http.get("/v1/stream/__ds/subscriptions", headers=ALL)).text)
    return found


ATTEMPTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    *(("GET", f"/runs/other{query}", {}) for query in ("", "?offset=-1", "?meta", "?meta&wait=0.1", "?offset=now")),
    *(("GET", f"/runs/other?offset=-1&live={live}", {}) for live in ("sse", "long-poll")),
    *(("GET", path, {}) for path in ("/runs/other/control", "/v1/stream/runs/other", "/runs/mine%2f..%2fother")),
    *(
        ("GET", path, {})
        for path in ("/runs/mine/../other", "/runs/mine/%2e%2e/other", "/v1/stream/runs/mine/../other")
    ),
    *(("GET", path, {}) for path in ("/runs/MINE", "/runs/mine/", "/runs//mine", "/runs/mine%00", "/runs/mine;other")),
    *(("GET", path, {}) for path in ("/runs", "/runs?status=active", "/runs?live=sse", "/runs?metadata.of=x")),
    *(
        ("GET", f"/v1/stream?live=sse{query}", {})
        for query in ("&status=active", "&metadata.of=x", "&stream=runs/other")
    ),
    ("POST", "/v1/stream?live=sse", {"json": {"streams": ["runs/other"]}}),
    *(("GET", path, {}) for path in ("/metrics", "/openapi.json", SUBSCRIPTION, "/v1/stream/__ds/subscriptions")),
    ("HEAD", "/runs/other", {}),
    ("PUT", "/runs/new", {"headers": JSON}),
    ("PUT", "/runs/mine", {"headers": JSON}),
    ("PUT", "/runs/new", {"headers": {"stream-forked-from": "/runs/mine"}}),
    ("PUT", "/v1/stream/new", {"headers": {"stream-forked-from": "/runs/other"}}),
    ("PUT", "/runs/mine/control", {"headers": JSON}),
    *(("POST", f"/runs/{run}", {"headers": JSON, "content": b"1"}) for run in ("mine", "other")),
    ("POST", "/runs/mine", {"headers": {"stream-closed": "true"}}),
    ("POST", "/v1/stream/runs/mine", {"headers": JSON, "content": b"1"}),
    ("POST", "/runs/mine/control", {"headers": JSON, "content": b"1"}),
    *(("POST", f"/runs/mine/{part}", {"json": {}}) for part in ("cancel", "heartbeat", "token")),
    ("POST", "/runs/mine/token", {"json": {"control": True, "ttl": 99999}}),
    ("POST", "/runs", {"json": {"id": "mine", "metadata": {"of": "mine"}}}),
    ("POST", "/runs", {"json": {"id": "new", "control": True}}),
    ("POST", "/v1/appends", {"headers": LINES, "content": b'{"stream":"runs/mine"}\n1\n'}),
    *(("DELETE", path, {}) for path in ("/runs/mine", "/v1/stream/runs/mine", "/runs/mine/control", SUBSCRIPTION)),
    ("PUT", SUBSCRIPTION, {"json": {"type": "pull-wake", "pattern": "**", "wake_stream": "w"}}),
    *(("POST", f"{SUBSCRIPTION}/{part}", {"json": {}}) for part in ("claim", "callback", "ack", "release", "streams")),
)


async def test_a_link_opens_nothing_else_and_changes_nothing(http: httpx.AsyncClient, link: str) -> None:
    """In the address, and taken out of it into a header."""
    before = await state(http)
    for method, target, options in ATTEMPTS:
        for headers, query in (({"authorization": f"Bearer {link}"}, ""), ({}, f"token={link}")):
            asked = {**options, "headers": options.get("headers", {}) | headers}
            more = f"{'&' if '?' in target else '?'}{query}" if query else ""
            answer = await http.request(method, target + more, **asked)
            if target == "/v1/appends":
                assert b'"status":403' in answer.content or answer.status_code == 403, answer.text
            elif "/v1/stream?" in target and answer.status_code == 200:
                assert '"error"' in answer.text
            else:
                assert answer.status_code in (400, 401, 403, 404, 405), (method, target, answer.text)
            assert SECRET not in answer.text, (method, target)
    assert await state(http) == before


async def test_a_link_opens_its_run_whichever_way_it_is_read(http: httpx.AsyncClient, link: str) -> None:
    for query in ("offset=-1", "offset=-1&live=long-poll", "offset=-1&tail=1", "meta"):
        answer = await http.get(f"/runs/mine?{query}&token={link}")
        assert (answer.status_code, "mine" in answer.text) == (200, True)
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "private" in answer.headers["cache-control"] or "no-store" in answer.headers["cache-control"]


def spelled(link: str) -> Iterator[str]:
    """The same token, written in another way, and others beside it."""
    head, _, mac = link.partition(".")
    fields, key = head[12:], head[:12]
    yield from (link[:-1], link + "A", link + "=", link + ".", f".{link}", link.upper(), head, f"{head}.", mac)
    yield from (f"{link}.{mac}", f"{head}.{mac[::-1]}", f"{head}.{'A' * len(mac)}", f"rgt_00000000{fields}.{mac}")
    for more in (b'["","runs/other",true,9999999999]', b'["","runs/other",true,9999999999.00000000000000000002]'):
        yield f"{key}{base64url.encode(more)}.{mac}"
        yield f"{key}{base64url.encode(more)}."
    for at in range(4, len(head), 7):
        yield f"{head[:at]}{'B' if head[at] != 'B' else 'C'}{head[at + 1 :]}.{mac}"


async def test_no_token_is_believed_that_nobody_has_made(http: httpx.AsyncClient, link: str) -> None:
    for token in spelled(link):
        for run in ("mine", "other"):
            for answer in (
                await http.get(f"/runs/{run}", headers={"authorization": f"Bearer {token}"}),
                await http.get(f"/runs/{run}", params={"token": token}),
            ):
                assert answer.status_code in (401, 403), (token, answer.text)
                assert answer.status_code == 401 or run == "other"


@pytest.mark.parametrize(
    "query",
    [
        *("token={0}&token={0}", "token={0}&token=x", "token=&token={0}", "%74oken={0}", "TOKEN={0}", "token[]={0}"),
        *("token={0}%00", "token= {0}", "access_token={0}", "x=%26token={0}", "token={0}#", "token=Bearer {0}"),
    ],
)
async def test_a_link_that_may_be_read_in_two_ways_is_none(gateway: Running, link: str, query: str) -> None:
    asked = query.format(link).replace(" ", "%20").replace("#", "%23")
    answer = await gateway.get_raw(f"/runs/mine?{asked}")
    assert answer.startswith(b"HTTP/1.1 401 "), answer


async def test_a_link_and_another_credential_are_none(http: httpx.AsyncClient, link: str) -> None:
    """Whoever follows a link does not act by a key of their own, nor the other way round."""
    for run in ("mine", "other"):
        for headers in (ALL, READER, {"authorization": f"Bearer {link}"}):
            answer = await http.get(f"/runs/{run}?token={link}", headers=headers)
            assert answer.json()["error"]["type"] == "credential_malformed"
        assert (await http.get(f"/runs/{run}", headers={"cookie": f"token={link}"})).status_code == 401
        assert (await http.request("GET", f"/runs/{run}", content=f"token={link}")).status_code == 401
    answer = await http.get(f"/runs/mine?token={ALL['authorization'][7:]}")
    assert answer.status_code == 401, "a key may be in no address"


async def test_no_reader_makes_a_link_of_a_link(http: httpx.AsyncClient, gateway: Running, link: str) -> None:
    """Nor one that lasts longer, or for more: also with a token for control, and with a key for reading."""
    soon = int(time.time()) + 60
    control = await gateway.app._auth._tokens.sign(Capability("", "runs/mine", True, soon))
    for who in (link, control, READER["authorization"][7:]):
        for body in ({}, {"control": True}, {"ttl": 1}):
            answer = await http.post("/runs/mine/token", headers={"authorization": f"Bearer {who}"}, json=body)
            assert answer.json()["error"]["type"] == "scope_missing", answer.text
