"""What is measured, each in one place: two numbers, which are compared with those of the other place.

The one is what a client sees. The other is the processors' time that an operation costs the Machine and its sessions:
other work on the machine changes it little, and it lacks what is waited for.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from gateway.log.housekeeping import MARGIN, PAGE_EVENTS, STREAMS
from gateway.runs.queries import ListRequest
from gateway.runs.store import _list_of
from loadtests.bench.clients.load import Written
from loadtests.grown.fill import LONG, LONG_EVENTS, users
from loadtests.grown.places import Place, spent, used

SECONDS: Final = 3.0  # of appends, after a third of that as a warm-up
READS: Final = 200
CALLS: Final = 30
WOKEN: Final = 30  # of the two hundred of the small place, six times
GOAL: Final = 1.3


@dataclass(frozen=True)
class Taken:
    """`cpu`: milliseconds of an operation."""

    value: float
    cpu: float


Take = Callable[[Place], Awaitable[Taken]]


@dataclass(frozen=True)
class Measure:
    """`more`: whether more of it is better."""

    name: str
    unit: str
    take: Take
    more: bool = False


def written(connections: int, runs: int, value: Callable[[Written], float]) -> Take:
    """What is told of one-event POSTs."""

    async def take(place: Place) -> Taken:
        async with place.appending(connections, runs) as writers:
            await asyncio.sleep(SECONDS / 3)
            pids = await place.processes()
            await writers.mark()
            before = used(pids)
            await asyncio.sleep(SECONDS)
            cpu = spent(before)
            done = await writers.stop()
            return Taken(value(done), cpu / done.events)

    return take


async def woken(place: Place) -> Taken:
    pids = await place.processes()
    before = used(pids)
    done = await place.woken(WOKEN)
    return Taken(done.latency.milliseconds(0.5), spent(before) / WOKEN)


async def catch_up(place: Place) -> Taken:
    """MB a second of one reader, who reads all of a long run."""
    target, size, offset, closed = f"/runs/long-{place.chance.randrange(1, LONG)}", 0, "-1", False
    pids = await place.processes()
    async with place.client() as connection:
        before = used(pids)
        began = time.perf_counter()
        while not closed:
            headers, body = await place.get(*connection, f"{target}?offset={offset}")
            size += len(body)
            offset = headers["stream-next-offset"]
            closed = headers.get("stream-closed") == "true"
        seconds = time.perf_counter() - began
    cpu = spent(before)
    assert int(offset[-16:]) == LONG_EVENTS
    return Taken(size / seconds / 1e6, cpu)


def reads(target: Callable[[Place], str]) -> Take:
    """The median of READS requests, in milliseconds."""

    async def take(place: Place) -> Taken:
        took = []
        pids = await place.processes()
        async with place.client() as connection:
            before = used(pids)
            for _ in range(READS):
                began = time.perf_counter()
                await place.get(*connection, target(place))
                took.append(time.perf_counter() - began)
            cpu = spent(before)
        return Taken(statistics.median(took) * 1e3, cpu / READS)

    return take


def calls(statement: str, arguments: Callable[[Place], tuple[object, ...]], before: str = "SELECT") -> Take:
    """The median of CALLS of a statement, in milliseconds. `before`: what is done before each; both are taken back."""

    async def take(place: Place) -> Taken:
        took, cpu = [], []
        async with place.connected() as connection:
            pids = [connection.get_server_pid()]
            for _ in range(CALLS):
                given = arguments(place)
                transaction = connection.transaction()
                await transaction.start()
                await connection.execute(before)
                idle, began = used(pids), time.perf_counter()
                await connection.fetch(statement, *given)
                took.append(time.perf_counter() - began)
                cpu.append(spent(idle))
                await transaction.rollback()
        return Taken(statistics.median(took) * 1e3, statistics.median(cpu))

    return take


# Twenty leases that are due, of runs that are alive.
DUE: Final = """
    UPDATE run_gateway.leases SET check_at = now() - interval '1 second' WHERE stream IN
           (SELECT stream FROM run_gateway.leases ORDER BY stream LIMIT 20)
"""


# As a client asks for it by the cursor of the page before.
LATER: Final = _list_of(ListRequest(None, None, [], limit=20, before=1), "")[0]


def _later(place: Place) -> tuple[object, ...]:
    return "", place.chance.randrange(100, place.shape.runs), 21


def _some(place: Place) -> list[str]:
    """Runs that were appended to lately, which are those that are asked about."""
    return [f"runs/new-{place.chance.randrange(max(place.used, 1))}" for _ in range(50)]


def _user(place: Place) -> str:
    return f"/runs?metadata.user=u{place.chance.randrange(users(place.shape.runs))}&limit=20"


MEASURES: Final = (
    Measure("append acknowledged, one connection, p50", "ms", written(
        1, 1, lambda done: done.latency.milliseconds(0.5))),
    Measure("one-event POSTs a second, 64 connections", "", written(
        64, 1_000, lambda done: done.events / done.seconds), more=True),
    Measure("append to a run that was silent and packed, p50", "ms", woken),
    Measure(f"catch-up of {LONG_EVENTS:,} packed events", "MB/s", catch_up, more=True),
    Measure("first page of any run, p50", "ms", reads(lambda place: f"{place.old()}?offset=-1")),
    Measure("record of any run, p50", "ms", reads(lambda place: f"{place.old()}?meta")),
    Measure("list, newest 20", "ms", reads(lambda _: "/runs?limit=20")),
    Measure("list, any later page", "ms", calls(LATER, _later, "SET LOCAL plan_cache_mode = force_custom_plan")),
    Measure("list by status", "ms", reads(lambda _: "/runs?status=errored&limit=20")),
    Measure("list by workflow", "ms", reads(lambda p: f"/runs?workflowName=flow-{p.chance.randrange(20)}&limit=20")),
    Measure("list of a user", "ms", reads(_user)),
    Measure("list of a plan, active", "ms", reads(lambda _: "/runs?metadata.plan=pro&status=active&limit=20")),
    Measure("lease sweep, 20 due", "ms", calls(
        "SELECT * FROM run_gateway.end_lost_runs('m', 500, true)", lambda _: (), DUE)),
    Measure("subscriptions' matching, of 50 runs", "ms", calls(
        "SELECT * FROM run_gateway.work_of($1, 10)", lambda place: (_some(place),))),
    Measure("look for what can be packed", "ms", calls(
        "SELECT * FROM run_gateway.packable_v2(0, $1, $2, 1000)", lambda _: (STREAMS, PAGE_EVENTS + MARGIN))),
    Measure("step of a purge with nothing to do", "ms", calls("SELECT run_gateway.purge(5000)", lambda _: ())),
    Measure("step of a retention, 50 runs", "ms", calls(
        "SELECT run_gateway.retire($1, 50)", lambda _: (timedelta(days=50),))),
)  # fmt: skip
