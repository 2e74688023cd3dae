"""A list of runs that lives: as it is, and then each change, as soon as one is heard of and has committed.

News only rings (law 2); what has changed is read from the database, by one question for all readers of a tenant that
stand at one place. A reader that comes, or comes back, reads for itself up to there. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol, Self

from gateway.fanout.crowd import WAKE, tell
from gateway.fanout.deadlines import Deadlines
from gateway.fanout.follower import Direct, Signal
from gateway.fanout.waiting import WaitingReader
from gateway.outage import SeldomLogger
from gateway.protocol.changes import Kind, Standing
from gateway.protocol.errors import ProtocolError
from gateway.protocol.record import RunRecord
from gateway.protocol.run_list import size
from gateway.protocol.target import Part, is_run, tenant_of
from gateway.runs.queries import ListRequest, shows
from gateway.tasks import in_turns

logger = logging.getLogger("gateway.runs.live_list")
seldom_logger: Final = SeldomLogger(logger)

PAUSE: Final = 0.02  # seconds between two looks at a tenant's runs, however often news rings
ROWS: Final = 500  # runs that one look reads
RECENT: Final = 2_000  # changes that are kept for readers a little behind
FRAME: Final = 100  # changes that are given at once
LITTLE: Final = 16 << 10  # bytes of records that are compared with a reader's filters, or given to it, at once


@dataclass(frozen=True, slots=True)
class Row:
    """A run that has changed. `transactions`: of each of its changes that is known."""

    stream: int
    record: RunRecord
    transactions: Sequence[tuple[Kind, int]]


@dataclass(frozen=True, slots=True)
class Look:
    """Runs that have changed after what a reader was told, in the order of their streams, as one snapshot shows them.

    `now`: what a reader knows when it was told of all of them. `more`: the look stopped before the last of them.
    """

    rows: Sequence[Row]
    now: Standing
    more: bool


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a run, and its record as it is now. `standing`: where a reader stands that was told it."""

    kind: Kind
    stream: int
    record: RunRecord
    standing: Standing


def weight(change: Change) -> int:
    """Bytes of a change's record, about."""
    return size(change.record)


class Ask(Protocol):
    """`Store.changes` of `gateway.runs.store`."""

    def __call__(self, tenant: str, standing: Standing, most: int) -> Awaitable[Look]: ...


def changes(standing: Standing, look: Look) -> tuple[list[Change], Standing]:
    """The changes of a look that a reader was not told yet, and what it knows after them. Pure."""
    upto = standing.upto or look.now.base
    found: list[Change] = []
    for row in look.rows:
        new = [kind for kind, xid in row.transactions if upto.sees(xid) and not standing.knows(row.stream, xid)]
        then = replace(standing, upto=upto, stream=row.stream)
        found += [Change(kind, row.stream, row.record, then) for kind in new]
    if look.more:
        return found, replace(standing, upto=upto, stream=look.rows[-1].stream)
    end = replace(look.now, base=upto)
    if found:
        found[-1] = replace(found[-1], standing=end)
    return found, end


class TenantChanges:
    """The changes of one tenant's runs, kept while readers follow them here.

    `at`: up to where they were read. `recent`: the last looks, each behind the place where it began.
    """

    def __init__(self, tenant: str, ask: Ask) -> None:
        self.readers: set[LiveList] = set()
        self.at: Standing | None = None
        self.recent: deque[tuple[Standing, Look]] = deque()
        self._size = 0
        self._tenant = tenant
        self._ask = ask
        self._rung = False
        self._looking: asyncio.Task[None] | None = None

    def ring(self) -> None:
        """Something may have changed."""
        self._rung = True
        if self._looking is None and self.at is not None:
            self._looking = asyncio.ensure_future(self._look())

    def stand(self, standing: Standing) -> None:
        """Takes note that a reader has read up to `standing`. Where the first one stands, the shared looks begin."""
        if self.at is None:
            self.at = standing
        if self._rung:
            self.ring()

    def since(self, standing: Standing) -> list[Look] | None:
        """The kept looks after `standing`; None if they do not reach back so far: then the reader looks for itself."""
        if self.at is None or self.at.epoch != standing.epoch:
            return None
        if standing.base.includes(self.at.base):
            return []
        looks: list[Look] = []
        for before, look in reversed(self.recent):
            looks.insert(0, look)
            if standing.base.includes(before.base):
                return looks
        return None

    async def _look(self) -> None:
        try:
            while self._rung and self.readers:
                self._rung = False
                if await self._look_once():
                    tell(tuple(self.readers), WAKE)
                await asyncio.sleep(PAUSE)
        except ProtocolError:
            self._rung = False  # the next sweep rings again
        except Exception:
            seldom_logger.exception("Looking for changes of runs failed; the next sweep looks again.")
        finally:
            self._looking = None

    async def _look_once(self) -> bool:
        """Whether readers have reason to look."""
        assert self.at is not None
        look = await self._ask(self._tenant, self.at, ROWS)
        whole = look.now.epoch == self.at.epoch and not look.more
        if whole:
            self.recent.append((self.at, look))
            self._size += 1 + len(look.rows)
        while self.recent and (self._size > RECENT or not whole):  # then a reader that is behind looks for itself
            self._size -= 1 + len(self.recent.popleft()[1].rows)
        self.at = look.now
        return bool(look.rows) or not whole


class Changes:
    """The changes of all tenants' runs that readers follow here."""

    def __init__(self, ask: Ask, deadlines: Deadlines, heartbeat: float) -> None:
        self.tenants: dict[str, TenantChanges] = {}
        self.ask: Final = ask
        self.deadlines: Final = deadlines
        self.heartbeat: Final = heartbeat
        self.begun: Callable[[], None] = lambda: None  # is called when the first reader of a list comes

    def follow(self, reader: LiveList, tenant: str) -> TenantChanges:
        """The changes of a tenant, which ring for this reader from now on."""
        first = not self.tenants
        followed = self.tenants.get(tenant)
        if followed is None:
            followed = self.tenants[tenant] = TenantChanges(tenant, self.ask)
        followed.readers.add(reader)
        if first:
            self.begun()
        return followed

    def unfollow(self, reader: LiveList, tenant: str) -> None:
        followed = self.tenants[tenant]
        followed.readers.discard(reader)
        if not followed.readers:
            del self.tenants[tenant]

    # News

    def ring(self, path: str) -> None:
        """Makes readers look, if this is the path of a run or of a run's control stream."""
        tenant = self.tenants.get(tenant_of(path)) if self.tenants else None
        if tenant is not None and is_run(path.removesuffix(Part.CONTROL.value)):
            tenant.ring()

    def doubted(self, paths: list[str]) -> None:
        for path in paths:
            self.ring(path)

    def look_again(self) -> None:
        """News may have been missed."""
        for tenant in self.tenants.values():
            tenant.ring()


class LiveList(WaitingReader):
    """A reader of a live list. Use as a context manager: it is registered before its first read (law 4).

    `request`: which runs it shows.
    """

    def __init__(self, all: Changes, tenant: str, request: ListRequest, direct: Direct | None = None) -> None:
        super().__init__(all.deadlines, all.heartbeat, direct)
        self._all = all
        self._tenant = tenant
        self._request = request
        self._changes: TenantChanges
        self._has_read = False  # since it was registered

    def __enter__(self) -> Self:
        self._changes = self._all.follow(self, self._tenant)
        return self

    def __exit__(self, *_: object) -> None:
        self._all.unfollow(self, self._tenant)
        super().__exit__()

    def stand(self, standing: Standing) -> None:
        """Takes note that it has looked for itself, and was told this."""
        self._has_read = True
        self._changes.stand(standing)

    async def next(self, standing: Standing) -> tuple[list[Change], Standing] | Signal:
        """The changes after `standing` that this list shows, maybe none, and where the reader stands then; or a signal.

        Raises StartAnew, and what a list raises.
        """
        return await self._next(partial(self._after, standing))

    async def _after(self, standing: Standing) -> tuple[list[Change], Standing] | None:
        looks = self._changes.since(standing) if self._has_read else None
        if looks is None:
            return await self._look(standing)
        return await self._from(standing, looks) if looks else None

    async def _look(self, standing: Standing) -> tuple[list[Change], Standing]:
        look = await self._all.ask(self._tenant, standing, ROWS)
        if not standing.is_good(look.now.epoch, look.now.at):
            raise StartAnew
        found, then = changes(standing, look)
        if then.upto is None:
            self.stand(then)
        return await self._shown(found), then

    async def _from(self, standing: Standing, looks: list[Look]) -> tuple[list[Change], Standing]:
        shown: list[Change] = []
        for look in looks:
            found, standing = changes(standing, look)
            shown += await self._shown(found)
        return shown, standing

    async def _shown(self, found: list[Change]) -> list[Change]:
        if not self._request.metadata or sum(map(weight, found)) <= LITTLE:
            return [change for change in found if shows(self._request, change.kind, change.record)]
        return await in_turns(self._shown_in_pieces(found))

    def _shown_in_pieces(self, found: list[Change]) -> Generator[None, None, list[Change]]:
        shown: list[Change] = []
        done = 0
        for change in found:
            if shows(self._request, change.kind, change.record):
                shown.append(change)
            done += weight(change)
            if done > 2 * LITTLE:
                done = 0
                yield
        return shown


class StartAnew(Exception):
    """The changes after a reader's offset cannot be found: the log is on another server, or it was too long ago."""
