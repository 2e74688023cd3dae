"""Quotas of a credential, of a client's address and of a tenant, made from the settings. All of them are off until they
are set. They are asked as soon as a request's principal is known; each process counts for itself.

What is counted in a second is a rate, a token bucket. It is written here because every append may need it: the library
`limits`, whose storage is made for many processes, takes 10 µs for it, five times as long. What is open at one time is
a share.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from gateway.asgi import Scope, client_of
from gateway.auth.principal import ANONYMOUS, PUBLIC, Principal
from gateway.protocol.errors import ProtocolError
from gateway.protocol.target import Target
from gateway.settings import Settings

Full = Callable[[str, str | None], Awaitable[bool]]

MOST: Final = 10_000  # holders whose rates are remembered; one that is forgotten has a full bucket again


class TooManyAppends(ProtocolError):
    """This credential has made as many appends as it may in a second."""

    status = 429
    type = "too_many_appends"


class TooManyCreates(ProtocolError):
    """This credential has made as many streams as it may in a second."""

    status = 429
    type = "too_many_creates"


class TooManyStreams(ProtocolError):
    """This credential has as many live reads open on this Machine as it may."""

    status = 429
    type = "too_many_streams"


class TooManyRequests(ProtocolError):
    """This client address has as many requests open on this Machine as it may."""

    status = 429
    type = "too_many_requests"


class TooManyRuns(ProtocolError):
    """The tenant has as many runs as it may: delete some."""

    status = 429
    type = "too_many_runs"


class Rate:
    """A limit of `limit` a second for each holder, and as many in one burst. Time is an argument."""

    __slots__ = ("_buckets", "limit")

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens that are left, and as of when

    def take(self, holder: str, now: float) -> bool:
        """Takes a token, if this holder has one left at `now` (monotonic seconds). Returns whether it had."""
        most = max(self.limit, 1.0)
        left, since = self._buckets.get(holder, (most, now))
        left = min(most, left + (now - since) * self.limit)
        allowed = left >= 1.0
        self._buckets[holder] = (left - 1.0 if allowed else left, now)
        if len(self._buckets) > MOST:
            self._forget(now, most)
        return allowed

    def _forget(self, now: float, most: float) -> None:
        # A full bucket need not be remembered. If none is full, the older half of the holders begins anew.
        busy = {
            holder: (left, since)
            for holder, (left, since) in self._buckets.items()
            if left + (now - since) * self.limit < most
        }
        self._buckets = busy if len(busy) <= MOST // 2 else dict(list(busy.items())[-MOST // 2 :])


class Share:
    """A limit of `limit` open at one time for each holder. Holders with nothing open are not remembered."""

    __slots__ = ("held", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held: dict[str, int] = {}

    def full(self, holder: str, count: int = 1) -> bool:
        """True if the holder has no room for so many more."""
        return self.held.get(holder, 0) + count > self.limit

    def take(self, holder: str, count: int = 1) -> None:
        self.held[holder] = self.held.get(holder, 0) + count

    def give_back(self, holder: str, count: int = 1) -> None:
        left = self.held[holder] - count
        if left:
            self.held[holder] = left
        else:
            del self.held[holder]

    @contextmanager
    def one(self, holder: str, count: int = 1) -> Iterator[None]:
        """Holds one, or `count`, while the block runs."""
        self.take(holder, count)
        try:
            yield
        finally:
            self.give_back(holder, count)


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


def holder(client: str, principal: Principal) -> str:
    """The holder that an append counts for: the credential or, where none is needed, the client's address."""
    return client if principal in (ANONYMOUS, PUBLIC) else principal.id


def _share(limit: int | None) -> Share | None:
    return None if limit is None else Share(limit)


def _rate(limit: float | None) -> Rate | None:
    return None if limit is None else Rate(limit)
