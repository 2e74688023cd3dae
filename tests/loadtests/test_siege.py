"""The siege that anyone can run, in a few seconds; and the arithmetic of its report."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time

import pytest

from loadtests.siege.attacks import ATTACKS, TITLES
from loadtests.siege.burner import burn
from loadtests.siege.machines import Use
from loadtests.siege.orders import Orders
from loadtests.siege.report import State
from loadtests.siege.times import Times, answers, compare, computed, longest, turns

PATIENCE = 400.0


@pytest.mark.skipif(sys.platform != "linux", reason="what Machines use is read from /proc")
async def test_all_abuse_at_once_leaves_the_honest_their_log() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtests.siege", "--json", "--seconds", "4", "--streams", "500",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "DATABASE_URL"},
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
    except BaseException:
        process.terminate()
        await process.wait()
        raise
    assert out, err.decode()
    report = json.loads(out)
    assert report["notes"] == []
    assert (process.returncode, report["held"]) == (0, True)
    assert report["lines of log; tracebacks"].endswith("; 0")
    assert not report["CPU of the loop until an append is answered"].startswith("0.0"), "honest appends were seen"
    for row, title in TITLES.items():
        assert report[f"row {row}: {title}"] not in ("nothing", "1 × did not end")


def test_a_request_counts_where_it_began() -> None:
    times = Times()
    for began, ended in ((1, 2), (3, 3.5), (9, 11), (12, 15), (19, 21)):
        times.add("append", began, ended)
    assert times.within("append", [(0, 8)]) == [1, 0.5]
    assert times.within("append", [(8, 10)]) == [2], "what ends later is what took long"
    found = compare(times, [(0, 8)], [(18, 20)], [(8, 18)])["append"]
    assert found.peace == (2, 1, 1)
    assert found.siege == (2, 3, 3)
    assert found.burnt == (1, 2, 2)
    assert (found.ratio, found.to_peace) == (1.5, 3)


def test_the_longest_turn_is_the_one_that_computed_longest() -> None:
    found = list(turns("5.0 0.9000 0.0210 \n6.0 0.0500 0.0500 a.b:1<c.d:2\n99.0 7.0 7.0 \n"))
    assert longest(found, [(0, 10)]).place == "a.b:1<c.d:2"
    assert longest(found, [(20, 30)]).cpu == 0


def test_what_a_loop_computed_until_an_answer_is_told_by_spans() -> None:
    found = list(answers("1.0 0.00100\n2.0 0.00300\n5.0 0.50000\n"))
    assert computed(found, [(0, 3)]) == (0.003, 0.003)
    assert computed(found, [(4, 6)]) == (0.5, 0.5)
    assert computed(found, [(7, 9)]) == (0, 0)


def test_a_machine_is_back_when_it_uses_what_it_did() -> None:
    before = Use(100, 50)
    assert State(before, 900, Use(120, 60)).back
    assert not State(before, 900, Use(121, 50)).back
    assert not State(before, 900, Use(100, 500)).back


def test_a_burner_takes_its_share_of_a_processor() -> None:
    began = time.process_time()
    burn(0.5, 0.2)
    assert time.process_time() - began <= 0.2, "and no more, however long it is kept from it"


def test_orders_arrive_as_they_were_given() -> None:
    orders = Orders(5, ("http://127.0.0.1:1",), {"read": "x" * 40}, 1.5, 10)
    assert Orders.parse(orders.line().decode()) == orders
    assert TITLES.keys() == ATTACKS.keys()
