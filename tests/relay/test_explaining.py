"""What `run-gateway relay` says of rows, and of a request."""

from __future__ import annotations

import asyncio

import pytest

from gateway.relay.configuration import presets, rows_of, table
from gateway.relay.explaining import explain
from tests.cli.commands import command
from tests.manual import manual
from tests.relay.agent import Agent


@pytest.mark.parametrize("name", presets())
def test_each_preset_can_be_explained(name: str) -> None:
    (row,) = rows_of(f"{name}:/path", None)
    said = dict(explain(row))
    assert {"records", "key", "stop", "lost", "leave", "readers"} <= said.keys()
    assert all(said.values())


def test_the_manual_lists_the_presets_as_they_are() -> None:
    assert table() in manual("relay")


async def test_a_request_is_tried_against_a_running_upstream() -> None:
    async with Agent.start() as agent:
        rows = ("--relay", "tanstack:/ai", "-d", "{}", "-H", "X-Run-Id: r1")
        trying = asyncio.ensure_future(command("relay", "try", "POST", "/ai", *rows, GATEWAY_UPSTREAM=agent.url))
        call = await agent.call()
        assert (call.target, call.headers["x-run-id"], call.body) == ("/ai", "r1", b"{}")
        await call.begin()
        await call.say(b": c\n\n", b"data: 1\n\n")
        await call.end()
        ended = await trying
        assert ended.code == 0
        assert "key     r1\n" in ended.out
        assert "back    GET /ai?runId=r1\n" in ended.out
        assert ".1\\ndata: 1\\n\\n" in ended.out


async def test_a_request_that_no_row_takes_is_said_to_be_passed_on() -> None:
    ended = await command("relay", "try", "POST", "/ai", "--relay", "tanstack:/ai", "--upstream", "http://127.0.0.1:1")
    assert (ended.code, ended.err) == (
        1,
        "run-gateway: no row takes POST /ai: it would be passed on, and leave no run\n",
    )


async def test_a_row_that_cannot_be_meant_ends_the_check() -> None:
    ended = await command("relay", "check", "--relay", "nuxt:/ai")
    assert ended.code == 2
    assert "there is no preset nuxt" in ended.err
