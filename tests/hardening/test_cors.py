"""Which pages of other origins may read: nobody's, everybody's or some, on every kind of answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from gateway.http.cors import Cors
from gateway.settings import BadSetting, load
from tests.servers import PROTOCOLS, Running, serving

APP, ADMIN, EVIL = "https://app.example", "https://admin.example:8443", "https://evil.example"
POLICIES: dict[str, dict[str, Any]] = {
    "default": {},
    "none": {"cors_origins": "none"},
    "one": {"cors_origins": APP},
    "several": {"cors_origins": f"{APP}, {ADMIN}/"},
    "auth": {"auth": "keys", "keys": "reader:read:" + "k" * 40},
}


@pytest.fixture(scope="module", params=list(PROTOCOLS))
def gateways(database_of_all: str, request: pytest.FixtureRequest) -> Iterator[dict[str, Running]]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(serving(database_of_all, request.param, **settings))
            for name, settings in POLICIES.items()
        }


async def answers(gateway: Running, origin: str | None) -> dict[str, httpx.Response]:
    """One answer of each kind: by a handler, past ASGI, from an event stream, by FastAPI, a refusal of each."""
    headers = {"content-type": "application/json"} | ({} if origin is None else {"origin": origin})
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers) as http:
        return {
            "create": await http.put("/runs/cors"),
            "append": await http.post("/runs/cors", content=b"1"),
            "append, refused": await http.post("/runs/none", content=b"1"),
            "head": await http.head("/runs/cors"),
            "read": await http.get("/runs/cors"),
            "long-poll": await http.get("/runs/cors?offset=-1&live=long-poll"),
            "sse": await http.get("/runs/none?offset=-1&live=sse"),
            "health": await http.get("/health"),
            "subscription": await http.get("/v1/stream/__ds/subscriptions/none"),
            "nowhere": await http.get("/nowhere"),
            "method": await http.patch("/runs/cors"),
            "preflight": await http.options("/runs", headers={"access-control-request-method": "POST"}),
        }


@pytest.mark.parametrize(
    ("policy", "origin", "allowed", "varies"),
    [
        ("default", None, "*", False),
        ("default", EVIL, "*", False),
        ("none", APP, None, False),
        ("auth", APP, None, False),
        ("one", None, APP, False),
        ("one", EVIL, APP, False),
        ("several", None, None, True),
        ("several", APP, APP, True),
        ("several", ADMIN, ADMIN, True),
        ("several", EVIL, None, True),
        ("several", "null", None, True),
    ],
)
async def test_every_answer_says_who_may_read_it(
    gateways: dict[str, Running], policy: str, origin: str | None, allowed: str | None, varies: bool
) -> None:
    for kind, answer in (await answers(gateways[policy], origin)).items():
        assert answer.headers.get_list("access-control-allow-origin") == ([allowed] if allowed else []), kind
        assert ("access-control-expose-headers" in answer.headers) == (allowed is not None), kind
        assert ("origin" in answer.headers.get("vary", "")) == varies, kind
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"], kind
        embedding = "cross-origin" if allowed == "*" else "same-origin"
        assert answer.headers.get_list("cross-origin-resource-policy") == [embedding], kind
        assert "access-control-allow-credentials" not in answer.headers, "nothing here is by a cookie"


@pytest.mark.parametrize("path", ["/runs", "/runs/a", "/runs/a/cancel", "/v1/stream/a", "/health", "/docs"])
async def test_a_preflight_needs_no_credential_and_is_cached(gateways: dict[str, Running], path: str) -> None:
    asks = {"origin": APP, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    async with httpx.AsyncClient(base_url=gateways["auth"].url) as http:
        answer = await http.options(path, headers=asks)
    assert (answer.status_code, answer.content) == (204, b"")
    assert "access-control-allow-origin" not in answer.headers, "nobody may, but that is all that is said"
    async with httpx.AsyncClient(base_url=gateways["several"].url) as http:
        answer = await http.options(path, headers=asks)
    assert answer.headers["access-control-allow-origin"] == APP
    assert "authorization" in answer.headers["access-control-allow-headers"].split(", ")
    assert answer.headers["access-control-max-age"] == "7200"


async def test_what_is_no_request_is_answered_by_the_policy_too(gateways: dict[str, Running]) -> None:
    for policy, allowed in (("default", b"access-control-allow-origin: *\r\n"), ("none", b"")):
        answer = await gateways[policy].raw(b"\0\0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        if b"nosniff" in answer:  # uvicorn's own class knows nothing of the application
            assert allowed in answer
            assert (b"access-control" in answer) == bool(allowed)


def test_the_setting_is_spelled_as_browsers_spell_origins() -> None:
    assert load(cors_origins=f"https://APP.example/,{APP}, {APP}:443").origins == (APP,)
    assert load(auth="keys", cors_origins="*").origins == ("*",)
    for value in ("app.example", "https://app.example/path", "https://*.example", "*,https://a.example", "null"):
        with pytest.raises(BadSetting, match=r"^--cors-origins"):
            load(cors_origins=value)


def test_with_one_policy_for_all_no_origin_costs_nothing() -> None:
    for origins in ((), ("*",), (APP,)):
        cors = Cors(origins)
        assert cors.common({}) is cors.constant, "its headers are not looked at"


async def test_what_writers_wrote_does_not_run_on_this_origin(gateways: dict[str, Running]) -> None:
    page = "<script>fetch('/runs')</script>"
    async with httpx.AsyncClient(base_url=gateways["default"].url) as http:
        await http.put("/v1/stream/page", headers={"content-type": "text/html"}, content=page)
        answer = await http.get("/v1/stream/page")
        await http.put("/runs/json", headers={"content-type": "application/json"})
        plain = await http.get("/runs/json")
    assert (answer.text, answer.headers["content-type"]) == (page, "text/html")
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert "content-security-policy" not in plain.headers, "nosniff keeps JSON what it is"


async def test_our_own_page_runs_our_own_files_alone(gateways: dict[str, Running]) -> None:
    async with httpx.AsyncClient(base_url=gateways["default"].url) as http:
        page = await http.get("/docs")
        policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
        needed = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == "'self'"
        assert "<script>" not in page.text
        assert "style=" not in page.text
        files = [path for path in needed if not path.startswith("data:")]
        assert len(files) == 3 and all(path.startswith("docs/") for path in files)
        for path in files:
            answer = await http.get(f"/{path}")
            assert (answer.status_code, answer.headers["x-content-type-options"]) == (200, "nosniff")
            assert answer.headers["content-type"].split(";")[0] in ("text/javascript", "text/css")
            assert answer.content
        assert "SwaggerUIBundle" in (await http.get("/docs/swagger-ui-bundle.js")).text
