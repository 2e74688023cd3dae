"""`fly-replay`: which appends are sent to the primary region, and that none is taken for done."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from gateway.http.replay import MOST_BYTES, Replay, replayable
from tests.machines import Machine

JSON = {"content-type": "application/json"}
FLY = {"fly-request-id": "01"}
ENV = {"FLY_REGION": "fra", "PRIMARY_REGION": "iad", "GATEWAY_REPLAY_APPENDS": "true"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, True),
        ({b"content-length": b"%d" % MOST_BYTES}, True),
        ({b"content-length": b"%d" % (MOST_BYTES + 1)}, False),
        ({b"content-length": b"", b"transfer-encoding": b"chunked"}, False),
        ({b"fly-replay-src": b"instance=1;region=fra;t=1"}, False),
        ({b"fly-replay-failed": b"instance=1"}, False),
    ],
)
def test_a_request_is_replayed_once_with_the_proxys_body(headers: dict[bytes, bytes], expected: bool) -> None:
    assert replayable({b"fly-request-id": b"01", b"content-length": b"2", **headers}) is expected


def test_what_did_not_come_through_flys_proxy_is_not_replayed() -> None:
    assert not replayable({b"content-length": b"2"})


async def test_only_appends_are_replayed() -> None:
    passed = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append((scope["type"], scope.get("method"), scope.get("path")))

    async def unused(*_: Any) -> Any:
        raise AssertionError("nobody asks here")

    headers = [(b"fly-request-id", b"01"), (b"content-length", b"0")]
    others = [("GET", "/runs/1"), ("PUT", "/runs/1"), ("POST", "/health")]
    for method, path in others:
        await Replay(app, "iad")({"type": "http", "method": method, "path": path, "headers": headers}, unused, unused)
    await Replay(app, "iad")({"type": "lifespan"}, unused, unused)
    assert passed == [*(("http", method, path) for method, path in others), ("lifespan", None, None)]


async def test_a_machine_elsewhere_replays_appends_and_takes_them_back(database_url: str) -> None:
    async with Machine.start(database_url, env=ENV) as machine, httpx.AsyncClient(base_url=machine.url) as http:
        await http.put("/runs/1", headers=JSON | FLY)
        sent_on = await http.post("/runs/1", headers=JSON | FLY, content="1")
        assert (sent_on.status_code, sent_on.headers["fly-replay"]) == (503, "region=iad")
        assert sent_on.headers["gateway-machine"] == "fra"
        assert (await http.get("/runs/1")).json() == []
        for came in ({}, FLY | {"fly-replay-src": "instance=1;region=syd;t=1"}):
            assert (await http.post("/runs/1", headers=JSON | came, content="1")).status_code == 204
        assert (await http.get("/runs/1")).json() == [1, 1]


@pytest.mark.parametrize("env", [ENV | {"FLY_REGION": "iad"}, ENV | {"GATEWAY_REPLAY_APPENDS": "false"}])
async def test_at_home_or_unasked_nothing_is_replayed(database_url: str, env: dict[str, str]) -> None:
    async with Machine.start(database_url, env=env) as machine, httpx.AsyncClient(base_url=machine.url) as http:
        await http.put("/runs/1", headers=JSON)
        assert (await http.post("/runs/1", headers=JSON | FLY, content="1")).status_code == 204
