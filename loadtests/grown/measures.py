"""What is measured, each in one place: a number, which is compared with that of the other place."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from gateway.log.housekeeping import MARGIN, PAGE_EVENTS, STREAMS
from loadtests.grown.fill import LONG, LONG_EVENTS
from loadtests.grown.places import Place

SECONDS: Final = 3.0  # of appends, after a third of that as a warm-up
READS: Final = 200
CALLS: Final = 30
GOAL: Final = 1.3


@dataclass(frozen=True)
class Measure:
    """`more`: whether more of it is better."""

    name: str
    unit: str
    take: Callable[[Place], Awaitable[float]]
    more: bool = False


async def append_alone(place: Place) -> float:
    async with place.appending(1, 1) as writers:
        await asyncio.sleep(SECONDS / 3)
        await writers.mark()
        await asyncio.sleep(SECONDS)
        return (await writers.stop()).latency.milliseconds(0.5)


async def append_rate(place: Place) -> float:
    async with place.appending(64, 1_000) as writers:
        await asyncio.sleep(SECONDS / 3)
        await writers.mark()
        await asyncio.sleep(SECONDS)
        done = await writers.stop()
        return done.events / done.seconds


async def woken(place: Place) -> float:
    return (await place.woken(50)).latency.milliseconds(0.5)


async def catch_up(place: Place) -> float:
    """MB a second of one reader, who reads all of a long run."""
    target, size, offset, closed = f"/runs/long-{place.chance.randrange(1, LONG)}", 0, "-1", False
    async with place.client() as connection:
        began = time.perf_counter()
        while not closed:
            headers, body = await place.get(*connection, f"{target}?offset={offset}")
            size += len(body)
            offset = headers["stream-next-offset"]
            closed = headers.get("stream-closed") == "true"
        seconds = time.perf_counter() - began
    assert int(offset[-16:]) == LONG_EVENTS
    return size / seconds / 1e6


def reads(target: Callable[[Place], str]) -> Callable[[Place], Awaitable[float]]:
    """The median of READS requests, in milliseconds."""

    async def take(place: Place) -> float:
        took = []
        async with place.client() as connection:
            for _ in range(READS):
                began = time.perf_counter()
                await place.get(*connection, target(place))
                took.append(time.perf_counter() - began)
        return statistics.median(took) * 1e3

    return take


def calls(statement: str, arguments: Callable[[Place], tuple[object, ...]]) -> Callable[[Place], Awaitable[float]]:
    """The median of CALLS of a statement whose changes are taken back, in milliseconds."""

    async def take(place: Place) -> float:
        took = []
        async with place.connected() as connection:
            for _ in range(CALLS):
                given = arguments(place)
                transaction = connection.transaction()
                await transaction.start()
                began = time.perf_counter()
                await connection.fetch(statement, *given)
                took.append(time.perf_counter() - began)
                await transaction.rollback()
        return statistics.median(took) * 1e3

    return take


async def lease_sweep(place: Place) -> float:
    """A look at twenty leases that are due, of runs that are alive."""
    took = []
    async with place.connected() as connection:
        for _ in range(CALLS):
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(
                "UPDATE run_gateway.leases SET check_at = now() - interval '1 second' WHERE stream IN"
                " (SELECT stream FROM run_gateway.leases ORDER BY stream LIMIT 20)"
            )
            began = time.perf_counter()
            await connection.fetch("SELECT * FROM run_gateway.end_lost_runs('m', 500, true)")
            took.append(time.perf_counter() - began)
            await transaction.rollback()
    return statistics.median(took) * 1e3


def _some(place: Place) -> list[str]:
    """Runs that were appended to lately, which are those that are asked about."""
    return [f"runs/new-{place.chance.randrange(max(place.used, 1))}" for _ in range(50)]


def _user(place: Place) -> str:
    return f"/runs?metadata.user=u{place.chance.randrange(min(10_007, place.shape.runs))}&limit=20"


MEASURES: Final = (
    Measure("append acknowledged, one connection, p50", "ms", append_alone),
    Measure("one-event POSTs a second, 64 connections", "", append_rate, more=True),
    Measure("append to a run that was silent and packed, p50", "ms", woken),
    Measure(f"catch-up of {LONG_EVENTS:,} packed events", "MB/s", catch_up, more=True),
    Measure("first page of any run, p50", "ms", reads(lambda place: f"{place.old()}?offset=-1")),
    Measure("record of any run, p50", "ms", reads(lambda place: f"{place.old()}?meta")),
    Measure("list, newest 20", "ms", reads(lambda _: "/runs?limit=20")),
    Measure("list by status", "ms", reads(lambda _: "/runs?status=errored&limit=20")),
    Measure("list by workflow", "ms", reads(lambda p: f"/runs?workflowName=flow-{p.chance.randrange(20)}&limit=20")),
    Measure("list of a user", "ms", reads(_user)),
    Measure("list of a plan, active", "ms", reads(lambda _: "/runs?metadata.plan=pro&status=active&limit=20")),
    Measure("lease sweep, 20 due", "ms", lease_sweep),
    Measure("subscriptions' matching, of 50 runs", "ms", calls(
        "SELECT * FROM run_gateway.work_of($1, 10)", lambda place: (_some(place),))),
    Measure("look for what can be packed", "ms", calls(
        "SELECT * FROM run_gateway.packable_v2(0, $1, $2, 1000)", lambda _: (STREAMS, PAGE_EVENTS + MARGIN))),
    Measure("step of a purge with nothing to do", "ms", calls("SELECT run_gateway.purge(5000)", lambda _: ())),
    Measure("step of a retention, 50 runs", "ms", calls(
        "SELECT run_gateway.retire($1, 50)", lambda _: (timedelta(days=50),))),
)  # fmt: skip
