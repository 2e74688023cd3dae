"""Quotas as the application uses them: made from the settings, and asked as soon as a request's principal is known."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from gateway.asgi import Scope, target_of
from gateway.auth.principal import ANONYMOUS, Principal
from gateway.quotas.errors import TooManyAppends, TooManyCreates, TooManyRequests, TooManyRuns
from gateway.quotas.rates import Rate
from gateway.quotas.shares import Share
from gateway.settings import Settings

Full = Callable[[str, str | None], Awaitable[bool]]


class Quotas:
    """The quotas of all holders. `full`: `RunQuota.full` of `gateway.runs.quota`.

    `judging`: whether `judge` can refuse anything, so that it has to be asked. `streams` and `addresses` are asked by
    those who open a live read or a request.
    """

    def __init__(self, settings: Settings, full: Full) -> None:
        self.streams = _share(settings.max_streams_per_token)
        self.addresses = _share(settings.max_requests_per_address)
        self._appends = _rate(settings.max_appends_per_token)
        self._creates = _rate(settings.max_creates_per_token)
        self._full = None if settings.max_runs_per_tenant is None else full
        limits = (settings.max_appends_per_token, settings.max_creates_per_token, settings.max_runs_per_tenant)
        self.judging = any(limit is not None for limit in limits)
        self.counting = self.judging or self.addresses is not None

    async def judge(self, scope: Scope, principal: Principal) -> None:
        """Raises TooManyAppends, TooManyCreates, TooManyRuns."""
        method, target = scope["method"], target_of(scope)
        a_run = method == "POST" and target.path == "/runs"
        if method == "POST" and target.appended_to:  # a heartbeat is not counted: refusing it would end the run
            if not self.appends(scope, principal):
                raise TooManyAppends
        elif a_run or (method == "PUT" and (target.stream is not None or target.reserved)):
            if self._creates is not None and not self._creates.take(holder(scope, principal), time.monotonic()):
                raise TooManyCreates
            if self._full is not None and (a_run or target.is_run):
                stored = target.stored(principal.tenant) if target.is_run else None
                if await self._full(principal.tenant, stored):
                    raise TooManyRuns

    def appends(self, scope: Scope, principal: Principal) -> bool:
        """Takes one append from the holder's quota. False: it has had as many as it may in a second."""
        return self._appends is None or self._appends.take(holder(scope, principal), time.monotonic())


def open_at(share: Share, scope: Scope) -> str:
    """The client's address, or the one that a trusted proxy names. Raises TooManyRequests if it has none left."""
    address = "" if scope["client"] is None else scope["client"][0]
    if share.full(address):
        raise TooManyRequests(f"At most {share.limit} at once.")
    return address


def holder(scope: Scope, principal: Principal) -> str:
    """Who is counted: the credential or, where nobody needs one, the client's address."""
    if principal is not ANONYMOUS:
        return principal.id
    return "" if scope["client"] is None else str(scope["client"][0])


def _share(limit: int | None) -> Share | None:
    return None if limit is None else Share(limit)


def _rate(limit: float | None) -> Rate | None:
    return None if limit is None else Rate(limit)
