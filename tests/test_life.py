"""A Machine's beginning and end: whatever one part raises, all that were started are stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.lifetime import Part, lifetime
from gateway.metrics.siblings import Siblings
from gateway.owner.shared import Workers
from gateway.settings.loading import load

NOWHERE = "http://127.0.0.1:9"
STEPS = ("start", "stop", "open", "close")
IDLE = {"_telling"}  # what a Machine has only while it does something


class Fault(Exception):
    """A part's."""


@pytest.fixture
def siblings(tmp_path: Path) -> Siblings:
    Workers.make(tmp_path)
    return Siblings(tmp_path, 0)


def whole(url: str, siblings: Siblings) -> Gateway:
    """A Machine with every part that a setting asks for."""
    settings = load(
        auth="keys",
        keys="ada:read,write:" + "a" * 40,
        read_database_url=url,
        upstream=NOWHERE,
        relay="ai-sdk:/api/chat",
        relay_recorders=NOWHERE,
        owned="/chats/{id}",
        flue=True,
        flue_workflows="*",
        flue_orphan_after=60,
        flue_agents="/agents/chat",
        flue_readers="all",
    )
    return Gateway(settings, url, None, siblings)


def parts_of(gateway: Gateway) -> list[Part]:
    return [part for stage in gateway._stages() for part in stage]


def name_of(part: Part) -> str:
    stop: Any = part.stop
    return str(stop.__qualname__)


def within(gateway: Gateway) -> Iterator[tuple[str, object]]:
    """What a Machine is made of, and its log and what answers behind it are, by their names."""
    for name, value in [
        each for whole in (gateway, gateway._log, gateway._application) for each in vars(whole).items()
    ]:
        for each in value if isinstance(value, list) else [value]:
            yield name, each
    assert gateway._log.near is not None
    yield "replica", gateway._log.near.replica


def test_whatever_begins_or_ends_is_a_part_of_the_machine(database_url: str, siblings: Siblings) -> None:
    gateway = whole(database_url, siblings)
    listed = {id(part.stop.__self__) for part in parts_of(gateway)}  # type: ignore[attr-defined]
    unlisted = {
        name
        for name, value in within(gateway)
        if any(hasattr(value, step) for step in STEPS) and id(value) not in listed
    }
    assert not unlisted
    made = vars(gateway) | vars(gateway._application)
    assert {name for name, value in made.items() if value is None} <= IDLE, "a part that `whole` lacks"


class Stops:
    """What was stopped of a Machine, in order. `faulty`: raises when it is stopped."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def noting(self, part: Part, *, faulty: bool = False) -> Part:
        async def stop() -> None:
            self.names.append(name_of(part))
            done: Any = part.stop()
            if done is not None:
                await done
            if faulty:
                raise Fault

        return Part(part.start, stop)


async def test_parts_that_all_fail_to_stop_are_all_stopped(database_url: str, siblings: Siblings) -> None:
    gateway, stops = whole(database_url, siblings), Stops()
    with pytest.raises(Fault):
        async with lifetime([stops.noting(part, faulty=True) for part in stage] for stage in gateway._stages()):
            assert len(asyncio.all_tasks()) > len(parts_of(gateway)) / 2
    assert stops.names == [name_of(part) for part in reversed(parts_of(gateway))]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_part_that_fails_to_start_closes_what_had_started(database_url: str, siblings: Siblings) -> None:
    """And itself, which may have come half the way."""

    def fail() -> None:
        raise Fault

    for name in [name_of(part) for part in parts_of(whole(database_url, siblings)) if part.start is not None]:
        gateway, stops, begun = whole(database_url, siblings), Stops(), list[str]()
        stages: list[list[Part]] = []
        for stage in gateway._stages():
            failing = [part._replace(start=fail) if name_of(part) == name else part for part in stage]
            stages.append([stops.noting(part) for part in failing])
            if name not in begun:
                begun += [name_of(part) for part in stage]
        with pytest.raises(Fault):
            async with lifetime(stages):
                raise AssertionError(f"{name} was not started")
        assert stops.names == begun[::-1]
        assert asyncio.all_tasks() == {asyncio.current_task()}, name


async def test_parts_of_one_stage_start_at_the_same_time() -> None:
    met = asyncio.Barrier(2)
    began: list[int] = []

    async def meet() -> None:
        await met.wait()
        began.append(0)

    async with lifetime([[Part(meet, lambda: None), Part(meet, lambda: None)], [Part(lambda: began.append(1), meet)]]):
        assert began == [0, 0, 1]
        other = asyncio.create_task(meet())
    await other
