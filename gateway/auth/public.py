"""Runs whose events everybody may read, and which caches in front may therefore keep and share (§10.1)."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.asgi import Scope, target_of
from gateway.auth.gate import principal_of
from gateway.auth.principal import ANONYMOUS, PUBLIC, matches
from gateway.protocol.target import Target


class PublicRuns:
    """`patterns`: of the ids of runs, of the default tenant."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = patterns

    def opens(self, method: str, target: Target, query: bytes) -> bool:
        """True for a read of such a run's events, and for nothing else of it: its record may name its user."""
        if not self._patterns or method not in ("GET", "HEAD") or not target.is_run or b"meta" in query:
            return False
        assert target.run is not None
        run = target.run.removeprefix("runs/")
        return any(matches(pattern, run) for pattern in self._patterns)

    def shares(self, scope: Scope) -> bool:
        """True if a cache may give the answer to others: the request has read such a run, and shows no credential."""
        query = scope["query_string"]
        return (
            self.opens(scope["method"], target_of(scope), query)
            and principal_of(scope) in (ANONYMOUS, PUBLIC)
            and b"token=" not in query
            and all(name != b"authorization" for name, _ in scope["headers"])
        )
