"""The quotas of a Machine, made from the settings, and asked as soon as a request's principal is known."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from gateway.asgi import Scope
from gateway.auth.principal import ANONYMOUS, PUBLIC, Principal
from gateway.protocol.target import Target
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

    async def judge(self, method: str, target: Target, principal: Principal, client: str) -> None:
        """Raises TooManyAppends, TooManyCreates, TooManyRuns."""
        a_run = method == "POST" and target.path == "/runs"
        if method == "POST" and target.appended_to:
            self.charge(target, principal, client)
        elif a_run or (method == "PUT" and (target.stream is not None or target.reserved)):
            if self._creates is not None and not self._creates.take(holder(client, principal), time.monotonic()):
                raise TooManyCreates
            if self._full is not None and (a_run or target.is_run):
                stored = target.stored(principal.tenant) if target.is_run else None
                if await self._full(principal.tenant, stored):
                    raise TooManyRuns

    def charge(self, target: Target, principal: Principal, client: str) -> None:
        """Counts an append to this target. Raises TooManyAppends.

        A heartbeat is not counted: refusing it would end the run.
        """
        if self._appends is None or not target.appended_to:
            return
        if not self._appends.take(holder(client, principal), time.monotonic()):
            raise TooManyAppends


def open_at(share: Share, scope: Scope) -> str:
    """The client's address, or the one that a trusted proxy names. Raises TooManyRequests if it has none left."""
    address = client_of(scope)
    if share.full(address):
        raise TooManyRequests(f"At most {share.limit} at once.")
    return address


def client_of(scope: Scope) -> str:
    """The address of the client, or the one that a trusted proxy names."""
    return "" if scope["client"] is None else str(scope["client"][0])


def holder(client: str, principal: Principal) -> str:
    """The holder that an append counts for: the credential or, where none is needed, the client's address."""
    return client if principal in (ANONYMOUS, PUBLIC) else principal.id


def _share(limit: int | None) -> Share | None:
    return None if limit is None else Share(limit)


def _rate(limit: float | None) -> Rate | None:
    return None if limit is None else Rate(limit)
