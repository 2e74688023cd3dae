"""/metrics of workers that share a port: whichever is asked answers for all, and no counter goes back."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry, Metric, exposition
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from gateway.metrics.collector import merge, render
from gateway.metrics.siblings import Siblings
from tests.process.workers import PATIENCE, alive, connections_to_each, gateway, until, workers

JSON = {"content-type": "application/json"}

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def values(text: str, name: str) -> dict[str, float]:
    """Worker -> value, summed over other labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name:
                found[sample.labels["worker"]] = found.get(sample.labels["worker"], 0) + sample.value
    return found


async def scrape(http: httpx.AsyncClient) -> str:
    return (await http.get("/metrics")).text


async def tells(http: httpx.AsyncClient, name: str, expected: dict[str, float]) -> None:
    """Asks a worker until it tells just this of all: one that is slow is left out, and will not always be slow."""
    async with asyncio.timeout(PATIENCE):
        while values(await scrape(http), name) != expected:  # noqa: ASYNC110  other processes
            await asyncio.sleep(0.05)


@linux
async def test_every_worker_answers_for_all_and_leaves_dead_ones_out(database_url: str) -> None:
    async with gateway(database_url, 3) as machine, connections_to_each(machine) as clients:
        first, second, third = (clients[pid] for pid in workers(machine))
        await first.put("/runs/1", headers=JSON)
        for number, client in enumerate((first, second, second, third, third, third)):
            assert (await client.post("/runs/1", headers=JSON, content=f"{number}")).status_code == 204
        for client in (first, second, third):
            await tells(client, "run_gateway_appends_total", {"1": 1, "2": 2, "3": 3})

        stuck, dead = workers(machine)[1:]
        os.kill(stuck, signal.SIGSTOP)
        await tells(first, "run_gateway_appends_total", {"1": 1, "3": 3})
        os.kill(stuck, signal.SIGCONT)

        os.kill(dead, signal.SIGKILL)
        await until(lambda: not alive(dead))
        assert "1" in values(await scrape(first), "run_gateway_tails"), "it answers all the same"
        await until(lambda: workers(machine)[2] != dead)
        async with connections_to_each(machine) as clients:  # once the replacement serves
            await tells(clients[workers(machine)[0]], "run_gateway_tails", {"1": 0, "2": 0, "3": 0})
            # What it counted went with it.
            await tells(clients[workers(machine)[0]], "run_gateway_appends_total", {"1": 1, "2": 2})


@linux
async def test_the_metrics_port_serves_what_operators_ask_and_no_more(database_url: str) -> None:
    keys = {"AUTH": "keys", "GATEWAY_KEYS": f"agent:read:{'a' * 40}"}
    async with gateway(database_url, 2, GATEWAY_METRICS_PORT="0", **keys) as machine:
        own = machine.log.partition("Metrics on ")[2].split()[0]
        async with httpx.AsyncClient(base_url=machine.url) as http, httpx.AsyncClient() as scraper:
            assert (await http.get("/metrics", headers={"authorization": "Bearer " + "a" * 40})).status_code == 403
            assert "durability" not in (await http.get("/ready")).json()
            async with asyncio.timeout(PATIENCE):
                while set(values((await scraper.get(own)).text, "run_gateway_tails")) != {"1", "2"}:
                    pass
            assert (await scraper.get(own.replace("/metrics", "/ready"))).json()["durability"]["fsync"] is True
            for path in ("/runs", "/runs/1", "/docs", "/openapi.json"):
                assert (await scraper.get(own.replace("/metrics", path))).status_code == 404


async def test_siblings_that_say_nothing_that_can_be_read_are_left_out(tmp_path: Path) -> None:
    asking, broken = Siblings(tmp_path, 1), Siblings(tmp_path, 2)
    (tmp_path / "3.metrics").touch()  # as after SIGKILL, but for the socket: nobody answers
    await asking.open(lambda: b"[]")
    await broken.open(lambda: b'[["half')
    try:
        assert await asking.others() == {}
    finally:
        await asking.close()
        await broken.close()
    assert os.listdir(tmp_path) == ["3.metrics"]


def test_families_are_merged_under_one_help_with_their_labels() -> None:
    families = []
    for value in (1, 2):
        family = Metric("things", "What they are.", "counter")
        family.add_sample("things_total", {"kind": "a"}, value)
        families.append(family)
    text, _ = rendered(merge({"1": families[:1], "2": families[1:]}), "")
    assert text.decode().splitlines() == [
        "# HELP things_total What they are.",
        "# TYPE things_total counter",
        'things_total{kind="a",worker="1"} 1.0',
        'things_total{kind="a",worker="2"} 2.0',
    ]


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_a_text_in_pieces_is_that_of_all_families_at_once(accept: str) -> None:
    """A turn of the loop writes one family, however many workers there are."""
    families = [Metric(f"things_{number}", "What they are.", "gauge") for number in range(3)]
    for family in families:
        family.add_sample(family.name, {}, 1)
    merged = merge({str(worker): families for worker in range(4)})
    registry = CollectorRegistry(auto_describe=False)
    registry.register(merged)
    encode, content_type = exposition.choose_encoder(accept)
    assert rendered(merged, accept) == (encode(registry), content_type)
    assert sum(1 for _ in render(merged, accept)) == len(families)


def rendered(collector: Collector, accept: str) -> tuple[bytes, str]:
    work = render(collector, accept)
    try:
        while True:
            next(work)
    except StopIteration as end:
        text: tuple[bytes, str] = end.value
        return text
