"""The routes that FastAPI answers: the headers and the shape of errors that all answers have."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from tests.servers import Client, Running


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/openapi.json", "/docs", "/nothing"])
async def test_every_answer_has_the_headers_that_all_have_once(client: Client, path: str) -> None:
    answer = await client("GET", path)
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert answer.headers.get_list("cross-origin-resource-policy") == ["cross-origin"]
    assert answer.headers.get_list("access-control-allow-origin") == ["*"]


async def test_an_unexpected_error_shows_nothing_of_the_inside(
    client: Client, gateway: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def acquire() -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(gateway.app._log, "_database", SimpleNamespace(acquire=acquire))
    with caplog.at_level(logging.ERROR):
        answer = await client("GET", "/ready")
    assert answer.status_code == 500
    assert answer.json() == {
        "error": {"type": "internal_error", "message": answer.json()["error"]["message"], "details": None}
    }
    assert "secret" not in answer.text
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert [record.getMessage() for record in caplog.records].count("A request failed.") == 1
    assert (await client("GET", "/health")).status_code == 200


async def test_the_root_says_what_is_here(client: Client) -> None:
    answer = await client("GET", "/")
    assert (answer.status_code, answer.json()["name"]) == (200, "run-gateway")
    for path in set(answer.json().values()) - {"run-gateway"}:
        assert (await client("GET", path)).status_code == 200, path


@pytest.mark.parametrize("path", ["/", "/health", "/ready"])
async def test_monitors_may_ask_for_the_head_alone(client: Client, path: str) -> None:
    answer = await client("HEAD", path)
    assert (answer.status_code, answer.content) == (200, b"")
