"""Recordings of the relay: another tenant, a narrow key and nobody reach none of them by any way, and what an upstream
says of its answer does not show it to others. Each attempt is a row.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.relay.answers import replayed
from gateway.relay.configuration import rows_of
from tests.databases import Postgres
from tests.relay.client import answer, asking
from tests.relay.houses import House, house_of, key, keyed
from tests.servers import PATIENCE

RELAY = "sse:/any,tanstack:/ai,ai-sdk-workflow:/flow"
TEXT = b"of-nobody-elses-business"
FRAME = b"data: %b\n\n" % TEXT
SCOPES = {
    "app@acme": "read,write,control",
    "writer@acme": "write",
    "reader@acme": "read",
    "stopper@acme": "control",
    "all@rival": "read,write,control,admin",
}


APP, RIVAL = key("app@acme"), key("all@rival")
in_module = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(postgres: Postgres) -> AsyncIterator[House]:
    async with house_of(postgres, relay=RELAY, **keyed(SCOPES)) as house:
        yield house


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def run(house: House) -> str:
    """A recording that goes on, whose client has left."""
    async with asking(house.one.url, "POST", "/any", {"x-run-id": "mine"} | APP, {}) as response:
        call = await house.agent.call()
        await call.begin()
        await call.say(FRAME)
        await response.until(FRAME)
        return response.body.partition(b"\n")[0].removeprefix(b"id: ").decode().rpartition(".")[0]


RIVALS: tuple[tuple[str, str, dict[str, str], Any], ...] = (
    *(
        ("GET", path, {}, None)
        for path in ("/any/mine", "/any/{run}", "/any/%6dine", "/any/MINE", "/any/mine?runId=mine")
    ),
    *(("GET", path, {}, None) for path in ("/ai?runId=mine", "/ai?runId={run}")),
    *(("GET", path, {"last-event-id": "{run}.0"}, None) for path in ("/any/mine", "/any", "/ai", "/flow", "/x", "/")),
    *(("POST", path, {"last-event-id": "{run}.0"}, {}) for path in ("/any", "/ai", "/x")),
    ("GET", "/any/mine", {"last-event-id": "{run}-00000000000000000000.0"}, None),
    ("GET", "/any/x", {"last-event-id": "acme/{run}.0"}, None),
    ("POST", "/any", {"x-run-id": "{run}"}, {}),
    ("POST", "/flow/{run}/stop", {}, {}),
    ("POST", "/any/mine/stop", {}, {}),
    ("POST", "/any/{run}/stop", {}, {}),
)
"""What a row of the relay may be asked: whoever may not is answered by the agent server, as if there were none."""


@in_module
@pytest.mark.parametrize(("method", "target", "headers", "body"), RIVALS)
async def test_another_tenant_is_answered_as_if_there_were_none(
    house: House, run: str, method: str, target: str, headers: dict[str, str], body: Any
) -> None:
    asked = {name: value.format(run=run) for name, value in headers.items()}
    async with asking(house.other.url, method, target.format(run=run), asked | RIVAL, body) as response:
        call = await house.agent.call()
        await call.answer(404, b"as if there were none")
        await response.ended()
    assert (response.status, response.body) == (404, b"as if there were none")


@in_module
async def test_a_row_that_says_404_says_it_of_anothers_recording(house: House, run: str) -> None:
    for target in ("/flow/{run}/stream", "/flow/mine/stream", "/flow/nothing/stream"):
        refused = await answer(house.other.url, "GET", target.format(run=run), RIVAL)
        assert (refused.status, TEXT in refused.body) == (404, False)


@in_module
async def test_a_narrow_key_and_nobody_get_nowhere(house: House, run: str) -> None:
    """Each row's ways, by who may do something else."""
    before = len(house.agent.calls)
    for method, target, headers, body in RIVALS:
        asked = {name: value.format(run=run) for name, value in headers.items()}
        for who in ("", "nobody@acme", "writer@acme", "reader@acme", "stopper@acme"):
            if target.endswith("/stop"):
                may = who == "stopper@acme"
            elif "last-event-id" in headers:  # who comes back reads, also by a POST
                may = who == "reader@acme" or (method, who) == ("POST", "writer@acme")
            else:
                may = who == {"POST": "writer@acme", "GET": "reader@acme"}[method]
            if may:
                continue
            credential = key(who) if who else {}
            async with asking(house.other.url, method, target.format(run=run), asked | credential, body) as response:
                await response.begun()
                if response.status == 0:
                    continue
                assert response.status in (401, 403), (method, target, who)
                assert TEXT not in response.body
    assert len(house.agent.calls) == before


RUNS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    *(("GET", f"/runs/{{run}}{query}", {}) for query in ("", "?offset=-1&live=long-poll", "?meta", "?meta&wait=0.1")),
    *(("GET", f"{path}/runs/{{run}}", {}) for path in ("/v1/stream", "/v1/stream/acme%1f", "/v1/stream/~relay%1f")),
    ("GET", "/runs/acme%1fruns%2f{run}", {}),
    ("GET", "/runs/{run}/control", {}),
    ("GET", "/runs?workflowName=sse", {}),
    ("GET", "/v1/stream?live=sse&stream=runs/{run}", {}),
    *(("POST", f"/runs/{{run}}/{part}", {"json": {}}) for part in ("cancel", "token", "heartbeat")),
    ("POST", "/runs/{run}", {"content": FRAME, "headers": {"content-type": "text/event-stream"}}),
    ("POST", "/runs/{run}", {"headers": {"stream-closed": "true"}}),
    ("PUT", "/runs/copy", {"headers": {"stream-forked-from": "/runs/{run}"}}),
    ("DELETE", "/runs/{run}", {}),
    ("DELETE", "/v1/stream/runs/{run}", {}),
)
"""The gateway's own routes, where a recording is a run."""


@in_module
async def test_as_a_run_it_is_not_there_for_another_tenant(house: House, run: str) -> None:
    async with httpx.AsyncClient(base_url=house.other.url, timeout=PATIENCE) as http:
        for method, target, options in RUNS:
            headers = {name: value.format(run=run) for name, value in options.get("headers", {}).items()}
            asked = {**options, "headers": headers | RIVAL}
            found = await http.request(method, target.format(run=run), **asked)
            assert TEXT not in found.content, (method, target)
            if found.status_code != 200:
                assert found.status_code in (400, 404, 409), (method, target, found.text)
            else:  # a list of nothing, or a stream's own refusal
                assert '"runs":[]' in found.text or '"status":404' in found.text, (method, target, found.text)
        mine = await http.get(f"/runs/{run}?meta", headers=APP)
        assert (mine.json()["status"], "cancelRequestedAt" in mine.json()) == ("active", False)
        assert (await http.get(f"/runs/{run}", headers=APP)).content == FRAME


KEPT = (
    *("", "public", "public, max-age=3600", "max-age=3600", "s-maxage=60", "immutable", "Public , Max-Age=1"),
    *('no-cache="set-cookie"', 'private="set-cookie"', 'public, no-cache="set-cookie", max-age=3600', "x-private"),
    *("must-revalidate", "private-ish", "not-no-store", 'public, extension="no-store"', "max-age=9, x=private"),
)
"""By which a cache may keep an answer: of a POST nobody does, but a replay is asked for by GET."""
OWN = (
    "no-store",
    "private",
    "no-cache",
    "private, max-age=60",
    "PRIVATE",
    "max-age=0,no-store",
    "no-cache, no-transform",
)


@pytest.mark.parametrize("told", [*KEPT, *OWN])
def test_no_cache_is_given_a_replay_whatever_the_upstream_says(told: str) -> None:
    (row,) = rows_of("sse:/any", None)
    head = [(b"content-type", b"text/event-stream"), (b"set-cookie", b"session=1"), (b"x-user", b"1")]
    if told:
        head.append((b"cache-control", told.encode()))
    headers = replayed(row, [*head, (b"age", b"5"), (b"expires", b"Thu, 01 Jan 2099 00:00:00 GMT")], {"run": "r"})
    names = {name for name, _ in headers}
    assert names.isdisjoint({b"set-cookie", b"x-user", b"expires", b"age"})
    assert [value for name, value in headers if name == b"cache-control"] == [
        told.encode() if told in OWN else b"private, no-cache"
    ]
