"""Who may read a Flue app's runs where keys are asked for: the app's own middleware is not asked."""

from __future__ import annotations

import httpx
import pytest

from tests.databases import Postgres
from tests.flue.app import App, event
from tests.servers import serving

SECRET = "0123456789abcdef0123456789abcdef"
MAKER = SECRET[4:] + SECRET[:4]
TENANTS = SECRET[8:] + SECRET[:8]
KEYS = f"reader:read:{SECRET} writer:write:{SECRET[::-1]} maker:read,write:{MAKER} other@acme:read,write:{TENANTS}"


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.mark.parametrize(("workflows", "seen"), [(None, ["public", "secret"]), ("public", ["public"])])
async def test_a_key_that_may_read_reads_what_is_named_or_all(
    postgres: Postgres, workflows: str | None, seen: list[str]
) -> None:
    async with postgres.database() as url, App.start(url, tables=True) as app:
        for name in ("public", "secret"):
            await app.begin(name, name)
            await app.append(name, event(name, 0))
        with serving(url, "direct", flue=True, flue_workflows=workflows, auth="keys", keys=KEYS) as machine:
            async with httpx.AsyncClient(base_url=machine.url) as http:
                for name in ("public", "secret"):
                    assert (await http.get(f"/runs/{name}")).status_code == 401
                    refused = await http.get(f"/runs/{name}", headers=bearer(SECRET[::-1]))
                    assert refused.json()["error"]["type"] == "scope_missing"
                    answer = await http.get(f"/runs/{name}", headers=bearer(SECRET))
                    assert answer.status_code == (200 if name in seen else 404)
                # Who writes on a reader's behalf hands out tokens, which an EventSource can send along.
                made = await http.post("/runs/secret/token", headers=bearer(MAKER))
                assert made.status_code == (201 if "secret" in seen else 404)
                if made.status_code == 201:
                    query = f"offset=-1&live=sse&token={made.json()['token']}"
                    async with http.stream("GET", f"/runs/secret?{query}") as response:
                        assert b"tick 0" in await anext(response.aiter_raw())
                    assert (await http.get(f"/runs/public?{query}")).status_code == 403
                listed = (await http.get("/runs", headers=bearer(SECRET))).json()["runs"]
                assert sorted(each["runId"] for each in listed) == seen


async def test_a_tenant_has_runs_of_its_own_under_the_same_ids(postgres: Postgres) -> None:
    async with postgres.database() as url, App.start(url, tables=True) as app:
        await app.begin("r")
        key = bearer(TENANTS)
        with serving(url, "direct", flue=True, auth="keys", keys=KEYS) as machine:
            async with httpx.AsyncClient(base_url=machine.url, headers=key) as http:
                assert (await http.get("/runs/r")).status_code == 404
                assert (await http.get("/runs")).json() == {"runs": []}
                assert (await http.post("/runs", json={"id": "r"})).status_code == 201
                assert (await http.post("/runs/r", json={"own": 1})).status_code == 204
                assert (await http.get("/runs/r")).json() == [{"own": 1}]
            async with httpx.AsyncClient(base_url=machine.url, headers=bearer(SECRET)) as http:
                assert (await http.get("/runs/r")).json() == []
