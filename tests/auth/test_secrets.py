"""Nothing secret comes out: not in logs, errors, metrics, the description, process titles, or printed values."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import pytest

from gateway.app import Gateway
from gateway.auth.jwt import Secret
from gateway.auth.keys import Keys
from gateway.process.worker import Orders
from gateway.settings import Settings, load
from gateway.subscriptions.signing import Keys as SigningKeys
from tests.auth.people import as_jwt, as_key, secret, settings
from tests.databases import Postgres
from tests.machines import Machine
from tests.servers import client_of, serving

PASSWORD, TOKEN_SECRET = "the-databases-own-password", "the-secret-that-signs-tokens-of-runs"
JSON = {"content-type": "application/json"}
GIVEN = settings() | {"token_secrets": TOKEN_SECRET}
FOREIGN = "somebody-elses-secret-sent-here-by-mistake"


def with_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(
        parts._replace(netloc=f"{parts.username or 'postgres'}:{PASSWORD}@{parts.netloc.rpartition('@')[2]}")
    )


def titles_of(pid: int) -> Iterator[str]:
    """What anybody on this host sees of a process and its children."""
    yield Path(f"/proc/{pid}/cmdline").read_text()
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from titles_of(int(child))


async def everything_that_is_asked(http: httpx.AsyncClient) -> tuple[list[str], list[str]]:
    """All that the gateway answers to all kinds of requests, and the secrets that were in these."""
    run = (await http.post("/runs", headers=as_key("all"), json={"id": "1", "control": True})).json()
    jwt, expired = as_jwt("read write"), as_jwt("read", lives=-60)
    token, wrong = run["token"], run["token"][:-3] + "AAA"
    answers = []
    shown = [as_key("all"), as_key("reader"), jwt, expired]
    shown += [{"authorization": text} for text in (f"Bearer {FOREIGN}", f"Basic {FOREIGN}", f"Bearer {FOREIGN} x")]
    for headers in shown:
        for asked in (
            "GET /runs/1", "POST /runs/1", "POST /runs/1/cancel", "GET /metrics", "GET /runs", "GET /openapi.json",
            "GET /docs", "GET /ready", "PUT /runs/x%01", "GET /nowhere", "GET /runs/1?live=what",
        ):  # fmt: skip
            method, path = asked.split()
            answers.append(await http.request(method, path, headers=JSON | headers, content=b"1" * (method == "POST")))
    for query in (token, wrong, FOREIGN, secret("all"), f"{token}&token={token}", f"{FOREIGN}&offset=-1&live=what"):
        for method in ("GET", "POST", "HEAD", "DELETE"):
            answers.append(await http.request(method, f"/runs/1?token={query}", headers=JSON))
    told = [f"{answer.text}\n{answer.headers}" for answer in answers]
    known = [
        secret("all"),
        secret("reader"),
        FOREIGN,
        token,
        wrong,
        jwt["authorization"][7:],
        expired["authorization"][7:],
    ]
    return told, known


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes' titles are looked up in /proc")
async def test_a_gateway_that_says_all_that_it_can_says_no_secret(postgres: Postgres) -> None:
    env = {
        "AUTH": GIVEN["auth"],
        "GATEWAY_KEYS": GIVEN["keys"],
        "GATEWAY_JWT_SECRET": GIVEN["jwt_secret"],
        "GATEWAY_TOKEN_SECRETS": TOKEN_SECRET,
        "GATEWAY_WORKERS": "2",
        "GATEWAY_LOG_LEVEL": "debug",
        "GATEWAY_ACCESS_LOG": "true",
    }
    async with postgres.database() as url, Machine.start(with_password(url), env=env, executed=True) as machine:
        async with httpx.AsyncClient(base_url=machine.url, timeout=30) as http:
            told, known = await everything_that_is_asked(http)
        titles = list(titles_of(machine.pid))
        assert len(titles) >= 3, "the parent and its workers"
        await machine.terminate()
        assert '"path": "/runs/1"' in machine.log.replace('":"', '": "'), "requests are logged"
        for one in (*known, *GIVEN["keys"].split(), GIVEN["jwt_secret"], TOKEN_SECRET, PASSWORD):
            for name, texts in (("log", [machine.log]), ("an answer", told), ("a title", titles)):
                assert not [text for text in texts if one in text], f"{one} is in {name}"


async def test_a_fault_says_no_secret_to_anyone(postgres: Postgres) -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)  # with tracebacks, as stderr has them
    logging.getLogger("gateway").addHandler(handler)
    try:
        async with postgres.database() as url:
            with serving(url, "direct", **GIVEN) as running:
                async with client_of(running) as client:
                    token = (await client("POST", "/runs", headers=as_key("all"), json={"id": "1"})).json()["token"]

                    def breaks(*_: Any, **__: Any) -> Any:
                        raise RuntimeError("something broke")

                    running.app._streams._methods["GET"] = breaks
                    running.app._door._admit, whole = breaks, running.app._door._admit
                    answers = [await client("GET", f"/runs/1?token={token}")]
                    running.app._door._admit = whole
                    answers += [await client("GET", f"/runs/1?token={token}")]
                    answers += [await client("GET", "/runs/1", headers=as_key("all"))]
        assert [answer.status_code for answer in answers] == [500, 500, 500]
        assert out.getvalue().count("RuntimeError: something broke") == 3
        for one in (token, secret("all")):
            assert not any(one in text for text in (out.getvalue(), *(answer.text for answer in answers)))
    finally:
        logging.getLogger("gateway").removeHandler(handler)


def test_printed_values_hold_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"postgres://user:{PASSWORD}@127.0.0.1:1/nowhere"
    whole = Settings(database_url=url, listen_database_url=url, **GIVEN)
    app = Gateway(whole, url)
    key = asyncio.run(Secret(GIVEN["jwt_secret"]).find(None))
    printed = [
        repr(value)
        for value in (
            whole, app, app._auth, app._auth._gate, app._auth._tokens, key, Keys(GIVEN["keys"], None)._by_digest,
            Orders(whole.model_dump_json(), url, [], 1, ""), SigningKeys([], b"signs-the-wakes"),
        )
    ]  # fmt: skip
    for one in (PASSWORD, TOKEN_SECRET, GIVEN["jwt_secret"], secret("all"), "signs-the-wakes"):
        assert not [text for text in printed if one in text], one
    monkeypatch.setenv("AUTH", "keys")
    assert load().auth == "keys"


def test_settings_that_hold_secrets_are_marked_so() -> None:
    """They are told by their names: one that is added has to be told apart here as well."""
    words = ("secret", "keys", "password", "url")
    shown = {"keys_file", "public_url", "jwt_jwks_url"}
    for name, field in Settings.model_fields.items():
        if any(word in name for word in words) and name not in shown:
            assert not field.repr, name
