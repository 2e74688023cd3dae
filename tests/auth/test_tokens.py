"""Read tokens: what they open and what not, how they end, and that every Machine takes every other's."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest

from gateway.auth import token_keys
from gateway.auth.errors import TokenInvalid
from gateway.auth.principal import Principal
from gateway.auth.read_tokens import PREFIX, Capability, read, sign
from gateway.auth.token_keys import ReadTokens, derived
from gateway.fanout.deadlines import LATE
from gateway.http.reading import lasting
from gateway.log.database import Database
from gateway.protocol import base64url
from tests.auth.people import as_jwt, as_key, settings
from tests.cli.commands import command
from tests.databases import Postgres
from tests.servers import Client, client_of, following, payloads, serving

JSON = {"content-type": "application/json"}
ALL, WRITER, CONTROLLER = as_key("all"), as_key("writer"), as_key("controller")
KEY = derived(b"a secret")


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def refusal(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["type"]


async def make(client: Client, headers: dict[str, str] = ALL, **body: Any) -> dict[str, Any]:
    """A new run's coordinates."""
    response = await client("POST", "/runs", headers=headers, json=body)
    assert response.status_code == 201, response.text
    coordinates: dict[str, Any] = response.json()
    return coordinates


async def another(client: Client, run: str, headers: dict[str, str] = ALL, **body: Any) -> httpx.Response:
    return await client("POST", f"/runs/{run}/token", headers=headers, json=body)


def test_a_token_says_what_it_is_for_to_those_who_have_the_key() -> None:
    capability = Capability("acme", "runs/ü*", True, 2_000_000_000)
    token = sign(capability, KEY)
    assert token.startswith(PREFIX) and token.isascii()
    assert read(token, {token_key_id(token): KEY}) == capability
    bound = replace(capability, stream_id=2**63 - 1)
    assert read(sign(bound, KEY), {token_key_id(token): KEY}) == bound
    for position in range(len(PREFIX), len(token)):
        wrong = token[:position] + ("A" if token[position] != "A" else "B") + token[position + 1 :]
        with pytest.raises(TokenInvalid):
            read(wrong, {token_key_id(token): KEY, token_key_id(wrong): KEY})
    with pytest.raises(TokenInvalid):
        read(token, {token_key_id(token): derived(b"another secret")})


@pytest.mark.parametrize("path", ["runs/1", "runs/1.00000000000000000017]", "runs/.0"])
@pytest.mark.parametrize("stream_id", [0, 1, 2**31, 2**63 - 1])
def test_the_version_before_reads_the_same_from_a_bound_token(path: str, stream_id: int) -> None:
    """It takes four fields, compares the path, and the expiry as a number."""
    token = sign(Capability("acme", path, False, 2_000_000_000, stream_id), KEY)
    fields = orjson.loads(base64url.decode(token.partition(".")[0][len(PREFIX) + 8 :]))
    assert fields[:3] == ["acme", path, False]
    assert 2_000_000_000 <= fields[3] < 2_000_000_000.1
    assert read(token, {token_key_id(token): KEY}).stream_id == stream_id
    assert read(sign(Capability("acme", path, False, 2_000_000_000), KEY), {token_key_id(token): KEY}).stream_id is None


def token_key_id(token: str) -> str:
    return token[len(PREFIX) : len(PREFIX) + 8]


async def test_coordinates_carry_a_token_that_reads_that_run_only(client: Client) -> None:
    run, other = await make(client), await make(client)
    path = f"/runs/{run['runId']}"
    await client("POST", path, headers=ALL | JSON, content=b"[1,2]")
    for answer in (
        await client("GET", path, headers=bearer(run["token"])),
        await client("GET", f"{path}?offset=-1&token={run['token']}"),
        await client("GET", f"/v1/stream{path}?token={run['token']}"),
        await client("GET", f"{path}/control?token={run['token']}"),
    ):
        assert answer.status_code == 200, answer.text
    assert (await client("HEAD", f"{path}?token={run['token']}")).status_code == 200
    assert (await client("GET", f"{path}?meta&token={run['token']}")).json()["status"] == "active"
    for answer in (
        await client("POST", path, headers=bearer(run["token"]) | JSON, content=b"3"),
        await client("DELETE", path, headers=bearer(run["token"])),
        await client("POST", f"{path}/cancel", headers=bearer(run["token"])),
        await client("POST", f"{path}/token", headers=bearer(run["token"])),
        await client("GET", "/metrics", headers=bearer(run["token"])),
    ):
        assert refusal(answer) == (403, "scope_missing")
    for answer in (
        await client("GET", f"/runs/{other['runId']}", headers=bearer(run["token"])),
        await client("GET", f"/runs/{other['runId']}?live=sse&offset=-1&token={run['token']}"),
        await client("GET", f"{path}x", headers=bearer(run["token"])),
        await client("GET", "/runs", headers=bearer(run["token"])),
        await client("GET", "/openapi.json", headers=bearer(run["token"])),
    ):
        assert refusal(answer) == (403, "wrong_stream")


async def test_a_token_in_an_address_is_not_handed_on(client: Client) -> None:
    run = await make(client)
    for target in (f"/runs/{run['runId']}?token={run['token']}", "/runs/x?token=nonsense"):
        answer = await client("GET", target)
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "token" not in answer.headers.get("location", "") + answer.text.replace("token_invalid", "")


async def test_sse_with_a_token_in_the_address_as_an_event_source_asks(client: Client) -> None:
    run = await make(client)
    path = f"/runs/{run['runId']}"
    async with following(client, f"{path}?offset=-1&live=sse&token={run['token']}") as follow:
        assert follow.response.headers["referrer-policy"] == "no-referrer"
        await client("POST", path, headers=ALL | JSON, content=b"[1]")
        await client("POST", path, headers=ALL | {"stream-closed": "true"})
        assert payloads(await follow.end()) == [1]


async def test_a_token_for_control_is_given_to_who_has_control(client: Client) -> None:
    run = (await make(client, control=True))["runId"]
    token = (await another(client, run, control=True)).json()["token"]
    assert (await client("POST", f"/runs/{run}/cancel?token={token}")).status_code == 202
    assert refusal(await client("POST", "/runs", headers=WRITER, json={"control": True})) == (403, "scope_missing")
    assert refusal(await another(client, run, WRITER, control=True)) == (403, "scope_missing")
    assert refusal(await another(client, run, CONTROLLER)) == (403, "scope_missing")
    assert refusal(await another(client, run, WRITER)) == (403, "scope_missing"), "who cannot read lets nobody read"
    assert (await another(client, run, as_jwt("read write"))).status_code == 201


async def test_creating_the_same_run_with_another_token_is_no_conflict(client: Client) -> None:
    id = uuid4().hex
    assert (await client("POST", "/runs", headers=ALL, json={"id": id})).status_code == 201
    assert (await client("POST", "/runs", headers=ALL, json={"id": id, "control": True})).status_code == 200


async def test_a_token_is_of_its_tenant(client: Client) -> None:
    acme, globex = as_key("all@acme"), as_key("all@globex")
    run = await make(client, acme)
    path = f"/runs/{run['runId']}"
    await client("POST", path, headers=acme | JSON, content=b'"acme"')
    assert (await client("GET", f"{path}?token={run['token']}")).json() == ["acme"]
    assert refusal(await another(client, run["runId"], globex)) == (404, "run_not_found")
    assert refusal(await another(client, run["runId"], ALL)) == (404, "run_not_found")
    await client("PUT", path, headers=ALL | JSON, content=b'["default"]')
    assert (await client("GET", f"{path}?token={run['token']}")).json() == ["acme"]


async def test_how_long_a_token_lives(client: Client) -> None:
    run, now = (await make(client))["runId"], time.time()
    longest, short = await another(client, run, ttl=10**9), await another(client, run, ttl=7)
    assert longest.json()["expiresAt"] == pytest.approx(now + 3600, abs=60)
    assert short.json()["expiresAt"] == pytest.approx(now + 7, abs=60)
    for wrong in ({"ttl": 0}, {"ttl": "7"}, {"control": 1}, {"for": "ever"}):
        assert refusal(await another(client, run, **wrong)) == (400, "invalid_request")


@pytest.mark.parametrize("query", ["?offset=-1&live=sse", "?offset=-1&live=long-poll", "?meta&wait=300"])
async def test_every_live_read_ends_cleanly_before_its_token_does(postgres: Postgres, query: str) -> None:
    """None of these would end by itself while this test waits."""
    async with postgres.database() as url:
        with serving(url, "direct", sse_max_age=600, long_poll_timeout=600, **settings()) as running:
            async with client_of(running) as client:
                run = (await make(client))["runId"]
                signed = (await another(client, run, ttl=2)).json()
                answer = await client("GET", f"/runs/{run}{query}&token={signed['token']}")
                # A record that says "active" before its time would be taken for the end of the wait.
                assert answer.status_code in ((401,) if "meta" in query else (200, 204))
                assert b"streamClosed" not in answer.content, "it is the response that has ended"
                running.app._auth._gate._now = lambda: signed["expiresAt"] + 0.1  # type: ignore[union-attr]
                again = await client("GET", f"/runs/{run}{query}&token={signed['token']}")
                assert refusal(again) == (401, "token_expired")
                assert again.headers["www-authenticate"].startswith('Bearer error="invalid_token"')


def test_a_read_ends_before_its_credential_does() -> None:
    key, token = Principal("key", frozenset()), Principal("token", frozenset(), expires=1_000.0)
    assert lasting(key, 60, 999.0) == 60
    assert lasting(token, 60, 900.0) == 60
    assert lasting(token, 60, 990.0) == 10 - LATE
    assert lasting(token, 60, 999.9) == lasting(token, 60, 1_001.0) == 0


async def test_machines_share_tokens_while_keys_change(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_keys, "PAUSE", 0)
    capability, changes = Capability("", "runs/1", False, 2_000_000_000), list[str]()
    async with Database(database_url, pool_size=2, statement_timeout=10) as database:
        a, b = (ReadTokens(database, [], lambda name=name: changes.append(name)) for name in "ab")  # type: ignore[misc]
        old = await a.sign(capability)
        assert (await b.verify(old, b"")).stream == "runs/1"
        rotated = await command("rotate-token-key", DATABASE_URL=database_url)
        assert rotated == (0, "Within a minute, runs' tokens are signed with key 2\n", "")
        await a._look()
        new = await a.sign(capability)
        assert new != old, "the newest signs"
        for token in (old, new):
            assert (await b.verify(token, b"")).stream == "runs/1"
        unsure = await command("rotate-token-key", "--revoke", DATABASE_URL=database_url)
        assert (unsure.code, unsure.out) == (1, "")  # nobody answered its question, and nothing was done
        assert "End 0 tokens of runs within a minute" in unsure.err
        revoked = await command("rotate-token-key", "--revoke", "--yes", DATABASE_URL=database_url)
        assert (
            revoked.out == "Within a minute, runs' tokens are signed with key 3; 0 tokens of older keys are refused\n"
        )
        await b._look()
        for token in (old, new):
            with pytest.raises(TokenInvalid):
                await b.verify(token, b"")
        assert changes == ["a", "b", "a", "b", "b"], "whoever remembers what was verified is told to forget it"


async def test_who_revokes_tokens_is_told_how_many_end(database_url: str) -> None:
    soon = int(time.time())
    async with Database(database_url, pool_size=2, statement_timeout=10) as database:
        a, b = (ReadTokens(database, [], lambda: None) for _ in "ab")
        for tokens, expiries in ((a, (soon + 60, soon + 90_000)), (b, (soon + 60, soon - 3600, soon + 60))):
            for expires in expiries:
                await tokens.sign(Capability("", "runs/1", False, expires))
            await tokens._look_and_tell()
            await tokens._look_and_tell()  # nothing is told twice
        unsure = await command("rotate-token-key", "--revoke", DATABASE_URL=database_url)
        assert "End 4 tokens of runs within a minute, and those that were made in the last one?" in unsure.err
        await a.sign(Capability("", "runs/1", False, soon + 60))
        await a.stop()
        revoked = await command("rotate-token-key", "--revoke", "--yes", DATABASE_URL=database_url)
        assert revoked.out.endswith("; 5 tokens of older keys are refused\n")
        again = await command("rotate-token-key", "--revoke", "--yes", DATABASE_URL=database_url)
        assert again.out.endswith("; 0 tokens of older keys are refused\n")


async def test_secrets_of_the_settings_go_before_the_databases_key() -> None:
    nowhere = Database("postgres://127.0.0.1:1/nowhere", pool_size=1, statement_timeout=1)
    capability = Capability("", "runs/1", False, 2_000_000_000)
    old = ReadTokens(nowhere, ["the first secret"], lambda: None)
    both = ReadTokens(nowhere, ["the second secret", "the first secret"], lambda: None)
    new = ReadTokens(nowhere, ["the second secret"], lambda: None)
    assert (await both.verify(await old.sign(capability), b"")).stream == "runs/1"
    assert await both.sign(capability) == await new.sign(capability)
    with pytest.raises(TokenInvalid):
        await new.verify(await old.sign(capability), b"")


async def test_where_nobody_is_asked_nobody_needs_a_token(postgres: Postgres) -> None:
    async with postgres.database() as url:
        with serving(url, "direct") as running:
            async with client_of(running) as client:
                run = await make(client, {})
                assert "token" not in run
                assert refusal(await another(client, run["runId"], {})) == (404, "route_not_found")
