"""Several gateways on one folder: one owns the Postgres, and another takes over."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.embedded import EmbeddedPostgres
from tests.embedded.tools import Spawn, run


async def test_a_second_gateway_attaches_and_leaves_stopping_nothing(tmp_path: Path, gateways: Spawn) -> None:
    async with EmbeddedPostgres(tmp_path / "data") as first:
        second = await gateways(tmp_path / "data")
        assert await second.ready() == ("attached", first.dsn)
        await second.end()
        assert await run(first.dsn, "SELECT 1") == 1


@pytest.mark.parametrize("manner", ["killed", "stopped"])
async def test_an_attached_gateway_takes_over_when_the_owner_is(tmp_path: Path, gateways: Spawn, manner: str) -> None:
    first = await gateways(tmp_path / "data")
    role, dsn = await first.ready()
    second = await gateways(tmp_path / "data")
    assert (role, *await second.ready()) == ("owner", "attached", dsn)
    await run(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    await (first.kill() if manner == "killed" else first.end())
    assert await second.line() == "took over"  # measured: after 0.15 to 0.4 s
    assert await run(dsn, "SELECT answer FROM kept") == 42
    third = await gateways(tmp_path / "data")
    assert await third.ready() == ("attached", dsn)


async def test_of_several_that_start_at_once_exactly_one_is_the_owner(tmp_path: Path, gateways: Spawn) -> None:
    started = await asyncio.gather(*(gateways(tmp_path / "data") for _ in range(4)))
    answers = await asyncio.gather(*(gateway.ready() for gateway in started))
    assert sorted(role for role, _ in answers) == ["attached", "attached", "attached", "owner"]
    assert len({dsn for _, dsn in answers}) == 1


async def test_of_several_that_are_attached_exactly_one_takes_over(tmp_path: Path, gateways: Spawn) -> None:
    owner = await gateways(tmp_path / "data")
    _, dsn = await owner.ready()
    started = [await gateways(tmp_path / "data") for _ in range(2)]
    for gateway in started:
        assert await gateway.ready() == ("attached", dsn)
    await owner.kill()
    lines = [asyncio.create_task(gateway.line()) for gateway in started]
    done, waiting = await asyncio.wait(lines, return_when=asyncio.FIRST_COMPLETED, timeout=60.0)
    assert [task.result() for task in done] == ["took over"]
    assert await run(dsn, "SELECT 1") == 1
    await started[lines.index(done.pop())].end()
    assert await waiting.pop() == "took over"
