"""Who calls the log: each draws what to do next, and writes down what was answered. All of them share a few streams."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from gateway.log.appends import CALL, Entry, Waiting, accepted_alone, arguments, asked_alone
from gateway.protocol.append import AppendRequest, Producer
from loadtests.collisions.history import (
    ABSENT,
    APPEND,
    APPENDED,
    CANCEL,
    CREATE,
    CREATED,
    DELETE,
    DELETED,
    DUPLICATE,
    FOUND,
    LEASE,
    READ,
    REFUSED,
    TTL,
    UNKNOWN,
    Call,
    History,
    Link,
    Settled,
    body,
    name,
    ttl_of,
)  # fmt: skip
from loadtests.collisions.session import LIMITS, Connection, Refused, Session, Unsure

JSON = "application/json"
FIXED = [f"{kind}/{n}" for kind in ("plain", "ttl") for n in range(4)]
WAKES = "wake"  # the stream that wakes are written to
SUBSCRIPTION = "s"
PRODUCERS = 3  # names, which several callers share: each is the other's zombie
RUNS = 3  # at a time
FORKS = 4  # that are used at a time
PAUSE = 1.6 * TTL  # seconds, at most, of a transaction
PAGES = (200, 3_000, 1 << 20)  # bytes

_REFUSALS = ("P0002", "55000", "22023")  # no such stream; it takes no such event; no such stream can be made
_MAKE = (
    "SELECT * FROM run_gateway.make_stream_v2($1, $2, $3, $4, NULL, NULL, $5, $6, $7, NULL, $8, NULL, 100, 10000,"
    " NULL, NULL, NULL, NULL)"
)
_BEGIN_RUN = "SELECT * FROM run_gateway.begin_run($1, '\\x00', $2, $2, NULL, $3, NULL, NULL, NULL, NULL)"
_READ = "SELECT * FROM run_gateway.read_page($1, $2, NULL, $3, $4)"
_CLAIM = "SELECT * FROM run_gateway.claim_subscription($1, $2, 100)"
_SETTLE = "SELECT * FROM run_gateway.settle_wake($1, 'pull-wake', $2, $2, $3, $4, $5, $6)"
_SUBSCRIBE = """
    SELECT * FROM run_gateway.begin_subscription(
        $1, 'pull-wake', $2, 'plain', $3, '{}', NULL, $4, interval '1 second', NULL, 'hash', 1000)
"""
_LINK = "SELECT run_gateway.link_next($1, $2)"
_LINKS = "SELECT run_gateway.links_of(s.number, true, 1000) FROM run_gateway.subscriptions s WHERE s.id = $1"


@dataclass
class Board:
    """What callers know of one another: which streams there are, and how long they were when somebody looked."""

    runs: list[str] = field(default_factory=list)
    forks: list[str] = field(default_factory=list)
    tails: Counter[str] = field(default_factory=Counter)
    claims: dict[tuple[str, str], tuple[int, int]] = field(
        default_factory=dict
    )  # of a stream's producer: epoch and next
    granted: int = 0  # the last generation of the subscription that somebody was given
    quiet: str = "ttl/quiet"
    made: int = 0

    def streams(self) -> list[str]:
        return [*FIXED, *self.runs, *self.forks]

    def next(self, kind: str) -> str:
        """A path that nobody has used."""
        self.made += 1
        return f"{kind}-{self.made}"


MIX: Mapping[str, int] = {  # how often a caller does what, by the name of its method
    "append_batch": 30, "append_alone": 15, "append_claimed": 25, "transact": 16, "close": 3, "create": 12,
    "begin_run": 6, "fork": 3, "delete": 3, "read": 40, "cancel": 2, "claim": 14, "look_at_links": 4, "subscribe": 2,
    "defy": 1,
}  # fmt: skip


class Caller:
    """One session, and what it does with it until it is told to stop."""

    def __init__(
        self,
        url: str,
        board: Board,
        history: History,
        rng: random.Random,
        number: int,
        mix: Mapping[str, int] = MIX,
        limits: Sequence[str] = LIMITS,
    ) -> None:
        self._session = Session(url, history, rng, limits)
        self._board = board
        self._history = history
        self._rng = rng
        self._number = number
        self._mix = mix
        self._again: tuple[Call, list[bytes]] | None = None  # a producer's request whose outcome it does not know

    async def run(self, over: asyncio.Event) -> None:
        """Returns when what it is doing has ended."""
        deeds: list[Callable[[], Awaitable[None]]] = [getattr(self, f"_{deed}") for deed in self._mix]
        weights = list(self._mix.values())
        try:
            while not over.is_set():
                (deed,) = self._rng.choices(deeds, weights)
                try:
                    await deed()
                except (Refused, Unsure):
                    await asyncio.sleep(0.01)  # which is written down where it happened
                await asyncio.sleep(self._rng.expovariate(200))
        finally:
            await self._session.close()

    async def end(self) -> None:
        await self._session.close()

    # Appends.

    async def _append_batch(self) -> None:
        """As a Machine does: several streams in one CALL, in the order of their paths."""
        paths = sorted(self._rng.sample(self._board.streams(), self._rng.randint(1, 3)), key=str.encode)
        closes = [self._rng.random() < 0.02 for _ in paths]
        calls = [self._begin(path, closes=closing) for path, closing in zip(paths, closes, strict=True)]
        await self._call(calls, {call.path: self._entry(call, self._bodies(call)) for call in calls})

    async def _append_alone(self) -> None:
        call = self._begin(self._path(), count=1)
        entry = Entry(Waiting(AppendRequest(call.path, JSON, self._bodies(call)), lambda _: None, 0))
        asked = asked_alone({call.path: entry}, self._machine(), pack=True)
        assert asked is not None, "it is plain"
        row = await self._told([call], lambda connection: connection.fetchrow(*asked), atomic=False)
        if row["tail"] is None:
            call.end(REFUSED)  # for a reason that it does not tell
        else:
            self._settle(call, accepted_alone(row), 0)

    async def _append_claimed(self) -> None:
        """As an idempotent producer, which repeats what it does not know the outcome of; others may have its name."""
        if self._again is not None:
            before, bodies = self._again
            call = self._history.begin(
                APPEND,
                before.path,
                request=before.request,
                count=before.count,
                closes=before.closes,
                claim=before.claim,
                touches=True,
            )
        else:
            path, producer = self._path(), f"p{self._rng.randrange(PRODUCERS)}"
            epoch, seq = self._board.claims.get((path, producer), (0, 0))
            if self._rng.random() < 0.05:
                epoch, seq = epoch + self._rng.randint(-1, 2), 0
            seq = max(seq + self._rng.choices((0, -1, 1), (90, 5, 5))[0], 0)
            call = self._begin(path, claim=(producer, max(epoch, 0), seq), closes=self._rng.random() < 0.01)
            bodies = self._bodies(call)
        self._again = (call, bodies) if self._rng.random() < 0.9 else None
        await self._call([call], {call.path: self._entry(call, bodies)})
        self._again = None
        assert call.claim is not None
        producer, epoch, seq = call.claim
        if call.verdict in (APPENDED, DUPLICATE):
            self._board.claims[call.path, producer] = epoch, seq + 1
        elif call.verdict in ("stale_epoch", "sequence_gap", "epoch_start", ABSENT, "closed"):
            self._board.claims[call.path, producer] = epoch + 1, 0

    async def _call(self, calls: Sequence[Call], entries: dict[str, Entry]) -> None:
        sent = [
            self._machine(),
            *arguments(entries, told=True, together=self._rng.random() < 0.5, pack=self._rng.random() < 0.7),
        ]
        row = await self._told(
            calls, lambda connection: connection.fetchrow(CALL, *sent), atomic=False, expected=("40001",)
        )  # a page of a stream that is being packed at this moment
        for number, call in enumerate(calls):
            self._settle(call, row, number)

    def _settle(self, call: Call, row: Any, number: int) -> None:
        verdict = row["verdicts"][number]
        call.end(ABSENT if verdict in ("not_found", "gone") else verdict)
        call.tail = row["tails"][number] or 0
        call.cancelled = bool(row["cancels"][number])
        if verdict == APPENDED:
            self._board.tails[call.path] = call.tail
        elif verdict in ("closed", "lost"):
            self._retire(call.path)

    async def _transact(self) -> None:
        """As an application does: some streams, in the order of their paths, and work of its own in between."""
        paths = sorted({self._path(), self._path()}, key=str.encode)
        before, after = self._idle(), self._idle()
        if self._rng.random() < 0.4:  # the end of a stream that hardly anybody else uses comes meanwhile
            before, after = self._rng.sample((0.0, TTL * self._rng.uniform(0.9, 1.3)), 2)
            paths = [self._board.next("ttl/quiet")]
            self._board.quiet = paths[0]
            await self._make(paths[0])
        calls: list[Call] = []
        answered: dict[int, float] = {}
        keeps = self._rng.random() < 0.85

        async def work(connection: Connection) -> None:
            transaction = connection.transaction()
            await transaction.start()
            try:
                await asyncio.sleep(before)
                for path in paths:
                    call = self._begin(path, count=1, lasting=True)
                    calls.append(call)
                    token = await connection.fetchval(
                        "SELECT run_gateway.append($1, $2)", path, self._bodies(call)[0].decode()
                    )
                    call.tail = int(token.partition("_")[2])
                    answered[call.request] = time.time()
                await asyncio.sleep(after)
            except BaseException:
                if not connection.is_closed():
                    await transaction.rollback()
                raise
            for call in calls:
                call.life = time.time()
                call.held = (answered[call.request], call.life) if keeps else None
            await (transaction.commit() if keeps else transaction.rollback())

        try:
            await self._session.ask("a transaction", work, expected=_REFUSALS)
        except Refused as refused:
            for call in calls:
                call.end(REFUSED)
            if calls and getattr(refused.__cause__, "sqlstate", "") == "P0002":
                calls[-1].end(ABSENT)
            raise
        except Unsure:
            for call in calls:
                call.end(UNKNOWN)
            raise
        for call in calls:
            call.end(APPENDED if keeps else REFUSED)
        await self.read(paths[0], 0)

    async def _close(self) -> None:
        """By SQL, with a last event."""
        call = self._begin(self._path(), count=1, closes=True)
        event = self._bodies(call)[0].decode()
        token = await self._told(
            [call],
            lambda connection: connection.fetchval("SELECT run_gateway.close($1, $2)", call.path, event),
            expected=_REFUSALS,
        )
        call.tail = int(token.partition("_")[2])
        call.end(APPENDED)
        self._retire(call.path)

    async def _defy(self) -> None:
        """In a transaction that does not see what others commit, which has to be refused."""
        call = self._begin(self._path(), count=1)

        async def work(connection: Connection) -> None:
            async with connection.transaction(isolation=self._rng.choice(("repeatable_read", "serializable"))):
                await connection.fetchval(
                    "SELECT run_gateway.append($1, $2)", call.path, self._bodies(call)[0].decode()
                )

        await self._told([call], work, expected=("0A000",))
        call.end(APPENDED)
        self._history.faults.append(("00000", "an append above READ COMMITTED, which has to be refused,"))

    # Streams come and go.

    async def _create(self) -> None:
        await self._make(self._rng.choice(FIXED))

    async def _fork(self) -> None:
        source = self._path()
        below = "ttl/fork" if source.startswith("ttl/") else "plain/fork"
        path = self._board.next(below)
        call = await self._make(path, source=source, anchor=self._rng.randint(0, self._board.tails[source]))
        if call.verdict == CREATED:
            self._board.forks = [*self._board.forks[1 - FORKS :], path]

    async def _make(self, path: str, **fork: Any) -> Call:
        call = self._history.begin(CREATE, path, touches=True, **fork)
        ttl = TTL if ttl_of(path) == TTL and call.source is None else None
        row = await self._told(
            [call],
            lambda connection: connection.fetchrow(
                _MAKE, path, JSON, JSON, ttl, False, call.source, call.anchor if call.source else None, []
            ),
        )
        call.end(row["verdict"])
        self._board.tails[path] = row["tail"] or 0
        return call

    async def _begin_run(self) -> None:
        if len(self._board.runs) >= RUNS:
            if self._rng.random() < 0.3:
                self._retire(self._path())  # if it is a run, nobody writes to it any more
            return
        path = self._board.next("runs/r")
        call = self._history.begin(CREATE, path)
        self._board.runs.append(path)
        row = await self._told([call], lambda connection: connection.fetchrow(_BEGIN_RUN, path, JSON, LEASE))
        call.end(row["verdict"])

    async def _delete(self) -> None:
        call = self._history.begin(DELETE, self._path())
        verdict = await self._told(
            [call], lambda connection: connection.fetchval("SELECT run_gateway.delete_stream('m', $1)", call.path)
        )
        call.end(DELETED if verdict == DELETED else ABSENT)

    async def _cancel(self) -> None:
        if not self._board.runs:
            return
        call = self._history.begin(CANCEL, self._rng.choice(self._board.runs))
        row = await self._told(
            [call],
            lambda connection: connection.fetchrow(
                "SELECT * FROM run_gateway.cancel_run('m', $1, 'enough')", call.path
            ),
        )
        call.end(ABSENT if row["verdict"] in ("not_found", "gone") else row["verdict"])

    # Readers.

    async def _read(self) -> None:
        path = self._path()
        if path.startswith("runs/") and self._rng.random() < 0.3:
            path += "/control"
        await self.read(path, self._rng.randint(0, max(self._board.tails[path], 1)), self._rng.random() < 0.3)

    async def read(self, path: str, since: int, touch: bool = False) -> Call:
        """One page. Raises Refused and Unsure."""
        call = self._history.begin(READ, path, touches=touch)
        size = self._rng.choice(PAGES)
        row = await self._told([call], lambda connection: connection.fetchrow(_READ, path, since, size, touch))
        if row["id"] is None or row["gone"]:
            call.end(ABSENT)
            return call
        call.end(FOUND)
        call.id, call.tail, call.closed = row["id"], row["tail"], row["closed"]
        self._board.tails[path] = call.tail
        if row["start"] is None:  # there is no such position, since the stream is another one by now
            call.start = call.tail
            return call
        call.start = row["start"]
        call.given = [name(event) for event in json.loads(b"[%b]" % (row["body"] or b""))]
        if len(call.given) != row["until"] - row["start"]:
            self._history.faults.append(("XX001", f"a read of {path} from {since}, with too few or too many events,"))
        return call

    # Subscriptions' workers.

    async def _claim(self) -> None:
        began = time.time()
        worker = f"w{self._number}"
        row = await self._session.ask("claim", lambda connection: _row(connection, _CLAIM, SUBSCRIPTION, worker))
        if row["verdict"] != "granted":
            return
        generation, wake = row["generation"], row["wake_id"]
        self._history.settled.append(Settled(began, time.time(), generation, True))
        self._board.granted = max(self._board.granted, generation)
        if self._rng.random() < 0.4:  # until its lease has passed to somebody else, if anybody wants it
            for _ in range(100):
                if self._board.granted != generation:
                    break
                await asyncio.sleep(0.02)
        links = [link for link in json.loads(row["streams"]) if link[3] > 0]
        acks = {path: self._rng.randint(max(acked, 0), tail) for path, _, acked, tail, *_ in links}
        if acks and self._rng.random() < 0.1:
            acks[min(acks)] -= 1  # may be too little
        began = time.time()
        done = self._rng.random() < 0.9
        row = await self._session.ask(
            "settle",
            lambda connection: _row(
                connection, _SETTLE, SUBSCRIPTION, generation, wake, list(acks), list(acks.values()), done
            ),
        )
        if row["verdict"] == "settled":
            self._history.settled.append(Settled(began, time.time(), generation, False, tuple(acks.items())))

    async def _subscribe(self) -> None:
        """One more subscription to streams that are being made at this moment; some go again."""
        subscription = self._board.next("more")
        row = await self._session.ask(
            "subscribe",
            lambda connection: _row(connection, _SUBSCRIBE, subscription, "/plain/*", "^/plain/[^/]+$", WAKES),
        )
        self._history.done["subscribe"] += 1
        if self._rng.random() < 0.5:
            await self._session.ask("link", lambda connection: connection.fetchval(_LINK, row["number"], 3))
        if self._rng.random() < 0.7:
            await self._session.ask(
                "unsubscribe",
                lambda connection: connection.execute("SELECT run_gateway.delete_subscription($1)", subscription),
            )

    async def _look_at_links(self) -> None:
        await self.look_at_links()

    async def look_at_links(self) -> None:
        """Where the subscription stands. Raises Refused and Unsure."""
        began = time.time()
        links = await self._session.ask("links", lambda connection: connection.fetchval(_LINKS, SUBSCRIPTION))
        now = time.time()
        self._history.links += [
            Link(began, now, path, stream, acked) for path, _, acked, _, _, stream in json.loads(links)
        ]

    # What they have in common.

    def _path(self) -> str:
        return self._board.quiet if self._rng.random() < 0.01 else self._rng.choice(self._board.streams())

    def _begin(self, path: str, **asked: Any) -> Call:
        count = asked.pop("count", None) or self._rng.choices((1, 2, 5, 80), (60, 20, 18, 2))[0]
        return self._history.begin(APPEND, path, request=self._history.number(), count=count, touches=True, **asked)

    def _bodies(self, call: Call) -> list[bytes]:
        padding = self._rng.choices((0, 300, 9_000), (85, 13, 2))[0]
        return [body(event, padding) for event in call.events]

    def _entry(self, call: Call, bodies: list[bytes]) -> Entry:
        producer = None if call.claim is None else Producer(*call.claim)
        lease = LEASE if call.path.startswith("runs/") and self._rng.random() < 0.2 else None
        request = AppendRequest(call.path, JSON, bodies, call.closes, None, producer, lease)
        return Entry(Waiting(request, lambda _: None, 0))

    def _machine(self) -> str | None:
        return self._rng.choice((None, "m", "=m"))

    def _retire(self, path: str) -> None:
        """A run that has ended makes room for another."""
        if path in self._board.runs:
            self._board.runs.remove(path)

    def _idle(self) -> float:
        """Seconds, of which there are none most of the time."""
        return self._rng.choices((0.0, self._rng.uniform(0, 0.1), self._rng.uniform(0, PAUSE)), (60, 25, 15))[0]

    async def _told(self, calls: Sequence[Call], work: Callable[[Connection], Awaitable[Any]], **how: Any) -> Any:
        """The answer to these calls, which are given their outcome where there is none."""
        try:
            return await self._session.ask(calls[0].what, work, **how)
        except Refused as refused:
            gone = getattr(refused.__cause__, "sqlstate", "") == "P0002"
            for call in calls:
                call.end(ABSENT if gone else REFUSED)
            raise
        except Unsure:
            for call in calls:
                call.end(UNKNOWN)
            raise


async def _row(connection: Connection, query: str, *arguments: Any) -> Any:
    """What a function with OUT parameters answers."""
    return await connection.fetchrow(query, *arguments)


SUBSCRIBE = (
    "SELECT run_gateway.begin_subscription($1, 'pull-wake', $2, $3, $4, '{}', NULL, $5, $6, NULL, 'hash', 1000)",
    SUBSCRIPTION, "/plain/*", "plain", "^/plain/[^/]+$", WAKES, timedelta(seconds=0.5),
)  # fmt: skip
