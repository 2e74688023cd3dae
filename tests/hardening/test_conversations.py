"""Spellings of a conversation where AUTH is asked before the application: who may not reaches it by none of them, and
who may is told to it as whom they are. Each attempt is a row.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio

from tests.auth.people import SECRET, as_jwt, secret
from tests.databases import Postgres, folder
from tests.owner.scene import House, scene
from tests.owner.test_owner import new

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEYS = ("ada@one:read,write", "bob@two:read,write", "eve@two:read", "ops@two:control,admin")
ENV = {
    "AUTH": "keys,jwt",
    "GATEWAY_JWT_SECRET": SECRET,
    "GATEWAY_JWT_TENANT_CLAIM": "tenant",
    "GATEWAY_OWNED_AUTH": "true",
    "GATEWAY_PUBLIC_RUNS": "*",
    "GATEWAY_KEYS": " ".join(f"{key}:{secret(key.partition('@')[0])}" for key in KEYS),
}


def of(name: str) -> str:
    return f"Bearer {secret(name)}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(postgres: Postgres) -> AsyncIterator[House]:
    with folder() as place:
        async with postgres.database() as url, scene(url, Path(place)) as those:
            yield await those.house(ENV)


async def sent(house: House, method: str, target: str, headers: Mapping[str, str], body: bytes = b"x") -> bytes:
    """The answer to a request whose target is not touched."""
    lines = [f"{method} {target} HTTP/1.1", "connection: close", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in {"host": "h", **headers}.items()]
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", house.gateway.port)
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
            return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()


def status(answer: bytes) -> int:
    return int(answer[9:12])


SPELLINGS = (
    *(
        "/chat/{id}",
        "/chat/{id}/files",
        "/chat/{id}/",
        "//chat/{id}",
        "///chat//{id}",
        "/chat/{id}?x=1",
        "/chat/{id}#x",
    ),
    *("/CHAT/{id}", "/cHaT/{id}", "/%63hat/{id}", "/%43HAT/{id}", "/chat%2F{id}", "/chat%2f{id}/files", "%2Fchat/{id}"),
    *("/./chat/{id}", "/%2e/chat/{id}", "/x/../chat/{id}", "/x/%2E./chat/{id}", "/x/..;v=1/chat/{id}", "/chat/{id}/."),
    *("/chat/{id}/..", "/chat/{id}/../", "/chat/{id}/../..", "/chat/{id}/%2e%2e", "/chat/{id}/..;/", "/chat/{id}/x/.."),
    *("/chat/{id}/../other", "/chat/other/../{id}", "/chat/./{id}", "/chat/{id}/%2e%2e/other", "/chat/..%2fchat/{id}"),
    *("\\chat\\{id}", "/chat\\{id}", "/chat%5C{id}", "/\\chat/{id}", "/chat/{id}\\..\\other", "\\\\h\\chat\\{id}"),
    *("//h/chat/{id}", "//h:80/chat/{id}", "/\\h/chat/{id}", "//u@h/chat/{id}", "//h/../chat/{id}", "////h/chat/{id}"),
    *("http://h/chat/{id}", "http://h//chat/{id}", "http://h/x/../chat/{id}", "HTTP://H/CHAT/{id}", "http:/chat/{id}"),
    *("/chat;v=1/{id}", "/chat/{id};v=1", "/chat;/{id}", "/chat%3Bv=1/{id}", "/chat/{id}%00", "/chat/{id}%20"),
    *("/chat/%69{id}", "/chat/%2569{id}", "/chat/{id}%2ffiles", "/chat/{id}%3Fx", "/chat/{id}%23x", "/chat/%ff{id}"),
)
"""What one application or another takes for a conversation. Some are refused as no target, or as that of two."""
NOBODY: Mapping[str, Mapping[str, str]] = {
    "nobody": {},
    "a wrong key": {"authorization": "Bearer nobodys-key-at-all-here"},
    "a key without rights": {"authorization": of("ops")},
    "a key in a cookie": {"cookie": f"authorization={secret('ada')}; token={secret('ada')}"},
    "a key for a proxy": {"proxy-authorization": of("ada")},
    "two keys": {"authorization": f"{of('ada')}, {of('bob')}"},
    "an old token": {"authorization": as_jwt("read write", lives=-3600, tenant="one")["authorization"]},
    "a tenant's name": {"run-gateway-tenant": "one", "x-tenant": "one"},
    "another method": {"x-http-method-override": "GET", "x-method-override": "OPTIONS"},
    "another path": {"x-original-url": "/health", "x-rewrite-url": "/health", "x-forwarded-prefix": "/health"},
    "an order": {"run-gateway-owner": f"v1.1.1.{'0' * 64}"},
    "a host": {"host": "localhost", "x-forwarded-host": "localhost", "x-forwarded-for": "127.0.0.1"},
    "an upgrade": {"upgrade": "h2c", "http2-settings": "AAMAAABkAAQCAAAAAAIAAAAA"},
}
REFUSED = (400, 401, 403)


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_no_spelling_lets_anybody_in(house: House, spelling: str) -> None:
    """By each method; the application would say its process."""
    target = spelling.format(id=new())
    for method in ("GET", "HEAD", "POST", "DELETE", "PATCH", "PROPFIND"):
        answer = await sent(house, method, target, {})
        assert status(answer) in REFUSED, (method, answer)
        assert b'"pid"' not in answer
    read_only = await sent(house, "POST", target, {"authorization": of("eve")})
    assert status(read_only) in REFUSED, read_only


@pytest.mark.parametrize("who", NOBODY)
async def test_nobody_is_let_in_by_what_they_say(house: House, who: str) -> None:
    for target in (f"/chat/{new()}/files", f"//h/chat/{new()}", f"/chat/{new()}?token={secret('ada')}"):
        for method in ("GET", "POST", "PUT"):
            answer = await sent(house, method, target, NOBODY[who])
            assert status(answer) in (401, 403), (method, answer)
            assert b'"pid"' not in answer


async def test_a_preflight_says_nothing_of_a_tenant(house: House) -> None:
    """It needs no credential, since it has none: the application is not told that it came from somebody."""
    for headers in NOBODY.values():
        answer = await sent(house, "OPTIONS", "/elsewhere", headers)
        assert b"run-gateway-tenant" not in answer, answer


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_who_is_let_in_is_of_their_tenant(house: House, spelling: str) -> None:
    """However it is spelled, and whatever else is said; what is refused is so for all."""
    target = spelling.format(id=new())
    if not target.startswith("/chat/") or "/files" not in target:
        target = target.partition("?")[0].partition("#")[0].rstrip("/") + "/files"
    for name, tenant in (("ada", "one"), ("bob", "two")):
        for said in TENANTS:
            answer = await sent(house, "POST", target, {"authorization": of(name), **said}, b'{"text": "x"}')
            if status(answer) == 400:
                assert b"ambiguous_path" in answer or b"malformed_http" in answer, answer
                continue
            told = json.loads(answer.partition(b"\r\n\r\n")[2]).get("headers")
            if told is None:
                continue  # it took the path for a message
            found = {value for header, value in told.items() if re.sub("[^a-z]", "-", header) == "run-gateway-tenant"}
            assert found == {tenant}, (name, said, told)


TENANTS: tuple[Mapping[str, str], ...] = (
    *(
        {name: "three"}
        for name in ("run-gateway-tenant", "RUN_GATEWAY.TENANT", "run.gateway.tenant", "run!gateway~tenant")
    ),
    {"connection": "run-gateway-tenant, authorization", "run_gateway-tenant": "three"},
)
"""A tenant that nobody is of."""
