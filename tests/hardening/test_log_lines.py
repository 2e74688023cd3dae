"""Nobody fills the log: a refusal of one kind is one line a second, which says how many it stands for."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.asgi import Scope
from gateway.http import request_log
from gateway.http.request_log import Seldom
from gateway.protocol.errors import InvalidRequest, NotSent, ProtocolError, Unavailable


class Refusals:
    """What is refused at a time, and the lines that the log has of it: the kind, and how many were held back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, level: int) -> None:
        self.now = 0.0
        self._caplog = caplog
        monkeypatch.setattr(request_log, "_seldom", Seldom())
        monkeypatch.setattr(request_log, "time", SimpleNamespace(monotonic=lambda: self.now))
        caplog.set_level(level, "gateway.http")

    def refuse(self, error: ProtocolError, times: int = 1) -> None:
        for _ in range(times):
            scope: Scope = {"type": "http", "method": "GET", "path": "/runs/a", "query_string": b"", "headers": []}
            request_log.refused(scope, error)

    @property
    def lines(self) -> list[tuple[str, int | None]]:
        fields: list[dict[str, Any]] = [vars(record)["request"] for record in self._caplog.records]
        return [(each["refusal"], each.get("unlogged")) for each in fields]


def test_a_kind_of_refusal_is_one_line_a_second(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = Refusals(monkeypatch, caplog, logging.WARNING)
    refusals.refuse(Unavailable(), 1_000)
    refusals.now = 0.99
    refusals.refuse(Unavailable())
    assert refusals.lines == [("unavailable", None)]
    refusals.now = 1.0
    refusals.refuse(Unavailable(), 5)
    assert refusals.lines[1:] == [("unavailable", 1_000)]
    refusals.now = 9.0
    refusals.refuse(Unavailable())
    assert refusals.lines[2:] == [("unavailable", 4)]
    refusals.now = 10.0
    refusals.refuse(Unavailable())
    assert refusals.lines[3:] == [("unavailable", None)], "none was held back"


def test_one_kind_of_refusal_does_not_hide_another(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = Refusals(monkeypatch, caplog, logging.DEBUG)
    refusals.refuse(Unavailable(), 3)
    refusals.refuse(NotSent(), 2)
    refusals.refuse(InvalidRequest(), 2)
    assert refusals.lines == [("unavailable", None), ("not_sent", None), ("invalid_request", None)]


def test_what_is_not_logged_is_not_counted_as_held_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A client's own fault is a line at debug alone."""
    refusals = Refusals(monkeypatch, caplog, logging.WARNING)
    refusals.refuse(InvalidRequest(), 9)
    assert refusals.lines == []
    caplog.set_level(logging.DEBUG, "gateway.http")
    refusals.refuse(InvalidRequest())
    assert refusals.lines == [("invalid_request", None)]
