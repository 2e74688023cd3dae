"""The appends that wait to be sent, by stream, and which streams are ready.

A stream has at most one entry under way, so its requests keep their order. Tenants take turns, a stream each: who
appends to 20,000 streams in one request does not stand before another who appends to one (law 11). Each request costs a
constant amount of work here, however many wait. Knows nothing of the database, and reads no clock: the time is an
argument.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final, NamedTuple

from gateway.log.appends import Entry, Waiting
from gateway.protocol.append import AppendRequest
from gateway.protocol.target import tenant_of

MOST_REQUESTS: Final = 2_000  # in one batch
MOST_SHARED: Final = 500  # in one batch of several tenants, of whom some may wait for one append
MOST_BYTES: Final = 8 << 20  # in one batch, but for a larger request, which has a batch of its own
_SPARE: Final = 1_000


class Late(NamedTuple):
    """A request whose time is over. `held`: because another transaction holds the row of its stream."""

    waiting: Waiting
    held: bool


class Line:
    """The requests to one stream, oldest first.

    Its state is one of three: ready (in the queue of streams that are ready), `sent` is under way, or `held`.
    """

    __slots__ = ("held", "path", "sent", "tenant", "waiting")

    def __init__(self) -> None:
        self.path = ""
        self.tenant = ""
        self.waiting: deque[Waiting] = deque()
        self.sent: Entry | None = None
        self.held = False


class Queue:
    """Requests by stream. `bytes`: of those that no batch has taken; `taken`: how many the last batch took."""

    def __init__(self) -> None:
        self.bytes = 0
        self.taken = 0
        self._lines: dict[str, Line] = {}  # of each stream with a request that waits or is under way
        self._ready: OrderedDict[str, deque[Line]] = OrderedDict()  # by tenant, whose turn it is first; none is empty
        self._held: dict[str, Line] = {}
        self._spare: list[Line] = []  # to be used again: a deque is not made for each request

    @property
    def ready(self) -> bool:
        """True if there is something to send."""
        return bool(self._ready)

    @property
    def empty(self) -> bool:
        """True if no request waits and none is under way."""
        return not self._lines

    @property
    def held(self) -> list[str]:
        """The streams whose rows another transaction held when their requests were sent."""
        return list(self._held)

    def first(self, path: str) -> AppendRequest | None:
        """The oldest request to a stream that waits or is under way."""
        line = self._lines.get(path)
        if line is None:
            return None
        return line.sent.waiting[0].request if line.sent else line.waiting[0].request if line.waiting else None

    def put(self, waiting: Waiting) -> None:
        """Adds a request behind all others to its stream."""
        path = waiting.request.path
        line = self._lines.get(path)
        if line is None:
            line = self._lines[path] = self._spare.pop() if self._spare else Line()
            line.path, line.tenant = path, tenant_of(path)
            self._make_ready(line)
        line.waiting.append(waiting)
        self.bytes += waiting.size

    def take(self) -> dict[str, Entry]:
        """Takes the next batch: streams in turn, each with as many requests as one entry takes.

        It is ordered by path, in which order every batch of every Machine locks its streams.
        """
        batch: dict[str, Entry] = {}
        ready = self._ready
        count = size = 0
        most = MOST_REQUESTS if len(ready) < 2 else MOST_SHARED
        while ready and count < most:
            tenant, lines = ready.popitem(last=False)
            if size and size + lines[0].waiting[0].size > MOST_BYTES:
                ready[tenant] = lines
                ready.move_to_end(tenant, last=False)  # it begins the next batch
                break
            while lines and count < most and (not size or size + lines[0].waiting[0].size <= MOST_BYTES):
                line = lines.popleft()
                waiting = line.waiting
                first = waiting.popleft()
                count += 1
                size += first.size
                batch[line.path] = line.sent = entry = Entry(first)
                while (
                    waiting
                    and count < most
                    and size + waiting[0].size <= MOST_BYTES
                    and entry.takes(waiting[0].request)
                ):
                    count += 1
                    size += waiting[0].size
                    entry.add(waiting.popleft())
                if ready:
                    break  # it is the next tenant's turn
            if lines:
                ready[tenant] = lines
        self.taken = count
        self.bytes -= size
        return batch if len(batch) < 2 else dict(sorted(batch.items()))

    def under_way(self, batch: dict[str, Entry]) -> dict[str, Entry]:
        """The part of a batch that is left after `hold`."""
        lines = self._lines
        return {path: entry for path, entry in batch.items() if path in lines and lines[path].sent is entry}

    def settled(self, batch: dict[str, Entry]) -> None:
        """Ends a batch, whose requests have their outcome: the next requests to its streams are ready."""
        lines = self._lines
        for path, entry in batch.items():
            line = lines.get(path)
            if line is None or line.sent is not entry:
                continue
            line.sent = None
            if line.waiting:
                self._make_ready(line)
            else:
                del lines[path]
                if len(self._spare) < _SPARE:
                    self._spare.append(line)

    def hold(self, path: str) -> None:
        """The stream's row is held: its entry goes back to the head of its line, which is not ready until `release`."""
        line = self._lines[path]
        assert line.sent is not None, "it was sent"
        line.waiting.extendleft(reversed(line.sent.waiting))
        self.bytes += sum(waiting.size for waiting in line.sent.waiting)
        line.sent = None
        line.held = True
        self._held[path] = line

    def release(self, path: str) -> None:
        """The stream's row is free again: it goes before all that became ready later."""
        line = self._held.pop(path, None)
        if line is not None:
            line.held = False
            self._ready.setdefault(line.tenant, deque()).appendleft(line)
            self._ready.move_to_end(line.tenant, last=False)

    def expire(self, now: float) -> list[Late]:
        """Removes the requests that were to be sent by now. Looks at the streams only, not at their requests."""
        late: list[Late] = []
        for line in list(self._lines.values()):
            waiting = line.waiting
            while waiting and waiting[0].until <= now:
                self.bytes -= waiting[0].size
                late.append(Late(waiting.popleft(), line.held))
            if not waiting and line.sent is None:
                del self._lines[line.path]
                self._held.pop(line.path, None)
        if late:
            left = {tenant: deque(line for line in lines if line.waiting) for tenant, lines in self._ready.items()}
            self._ready = OrderedDict((tenant, lines) for tenant, lines in left.items() if lines)
        return late

    def earliest(self) -> float | None:
        """Until when the first of those that wait has to be sent."""
        return min((line.waiting[0].until for line in self._lines.values() if line.waiting), default=None)

    def _make_ready(self, line: Line) -> None:
        """Gives a stream a place behind the others of its tenant."""
        lines = self._ready.get(line.tenant)
        if lines is None:
            self._ready[line.tenant] = deque((line,))
        else:
            lines.append(line)
