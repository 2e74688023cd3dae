"""GATEWAY_PUBLIC_RUNS: what is open to everybody, and what of it caches may share."""

from __future__ import annotations

import pytest

from gateway.auth.gate import let_in
from gateway.auth.principal import ANONYMOUS, PUBLIC, Principal
from gateway.auth.public import PublicRuns
from gateway.protocol.target import Target
from gateway.settings import BadSetting, load

RUNS = PublicRuns(["live-*", "news"])


@pytest.mark.parametrize(
    ("method", "path", "query", "open"),
    [
        ("GET", "/runs/live-1", b"", True),
        ("HEAD", "/runs/news", b"", True),
        ("GET", "/v1/stream/runs/live-1", b"offset=-1&live=sse", True),
        ("GET", "/runs/live-1", b"meta", False),
        ("GET", "/runs/live-1", b"meta=activity", False),
        ("GET", "/runs/live-1/control", b"", False),
        ("GET", "/runs/xlive-1", b"", False),
        ("GET", "/runs/news2", b"", False),
        ("GET", "/runs", b"", False),
        ("GET", "/v1/stream/live-1", b"", False),
        ("GET", "/v1/stream/runs/live-1/x", b"", False),
        ("POST", "/runs/live-1", b"", False),
        ("PUT", "/runs/live-1", b"", False),
        ("DELETE", "/runs/live-1", b"", False),
    ],
)
def test_only_the_events_of_such_a_run_are_for_everybody(method: str, path: str, query: bytes, open: bool) -> None:
    assert RUNS.opens(method, Target.of(path), query) == open
    assert not PublicRuns(()).opens(method, Target.of(path), query)


@pytest.mark.parametrize(
    ("principal", "query", "headers", "shared"),
    [
        (ANONYMOUS, b"", [], True),
        (PUBLIC, b"offset=-1&live=long-poll", [], True),
        (Principal("key", frozenset({"read"})), b"", [], False),
        (ANONYMOUS, b"token=rgt_1", [], False),
        (ANONYMOUS, b"", [(b"authorization", b"Bearer x")], False),
    ],
)
def test_what_a_credential_has_shown_is_not_shared(
    principal: Principal, query: bytes, headers: list[tuple[bytes, bytes]], shared: bool
) -> None:
    scope = {"method": "GET", "path": "/runs/news", "query_string": query, "headers": headers}
    let_in(scope, principal)
    assert RUNS.shares(scope) == shared


@pytest.mark.parametrize("patterns", ["live-*,", ",", "runs/live-*", "a,,b"])
def test_patterns_that_cannot_be_meant_are_refused(patterns: str) -> None:
    with pytest.raises(BadSetting, match="must be patterns of runs"):
        load(public_runs=patterns)
