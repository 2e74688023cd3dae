"""`GET /metrics` of a Machine that has been used: what was done is what is told."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.servers import Client, Running, client_of, following, last_control, serving, until

JSON = {"content-type": "application/json"}


@pytest.fixture
def machine(database_url: str) -> Iterator[Running]:
    with serving(database_url, "direct") as running:
        yield running


async def scrape(client: Client) -> dict[str, float]:
    """Name and labels, as `name{label}` of those without `le`, to values."""
    answer = await client("GET", "/metrics")
    assert answer.status_code == 200
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_what_was_appended_read_followed_and_refused_is_counted(machine: Running) -> None:
    async with client_of(machine) as client:
        path = f"/v1/stream/{uuid4().hex}"
        before = await scrape(client)
        await client("PUT", path, headers=JSON)
        async with following(client, f"{path}?offset=-1&live=sse") as reader:
            await reader.until(lambda reading: any(event.type == "control" for event in reading.events))
            await until(lambda: machine.app._hub.followers["following"] == 1)
            await client("POST", path, headers=JSON, content=b'["one","two"]')
            producer = {"producer-id": "p", "producer-epoch": "0", "producer-seq": "0"}
            for _ in range(2):
                await client("POST", path, headers=JSON | producer, content=b'"three"')
            await reader.until(lambda _: last_control(reader.reading)["streamNextOffset"].endswith("3"))
            open = await scrape(client)
        assert (await client("POST", path, headers={"content-type": "text/plain"}, content=b"x")).status_code == 409
        assert (await client("GET", "/v1/stream/none")).status_code == 404
        assert (await client("GET", path)).json() == ["one", "two", "three"]
        await until(lambda: machine.app._limits.readers.sse.count == 0)
        after = await scrape(client)

    def grown(name: str) -> float:
        return after[f"run_gateway_{name}"] - before.get(f"run_gateway_{name}", 0)

    assert grown("appends_total{appended}") == 2
    assert grown("appends_total{duplicate}") == 1
    assert grown("appends_total{refused}") == 1
    assert grown("appended_events_total") == 3
    assert grown("appended_bytes_total") == len(b'"one","two"' + b'"three"')
    assert grown("commit_requests_count") == grown("commit_duration_seconds_count") == 4
    assert grown("commit_requests_sum") == 4
    assert grown("deliveries_total") == grown("delivery_duration_seconds_count") == 2
    assert 0 < grown("delivery_duration_seconds_sum") < 10
    assert grown("catch_ups_total") == 2
    assert grown("log_reads_total") == 3, "the follower's first, one that found nothing, and the catch-up"
    assert grown("refusals_total{content_type_mismatch}") == 1
    assert grown("refusals_total{stream_not_found}") == 1
    assert (open["run_gateway_readers{sse}"], after["run_gateway_readers{sse}"]) == (1, 0)
    assert (open["run_gateway_followers{following}"], open["run_gateway_tails"]) == (1, 1)
    assert (after["run_gateway_followers{following}"], after["run_gateway_followers{catching_up}"]) == (0, 0)
    assert after["run_gateway_append_pending_bytes"] == 0


async def test_the_state_of_the_machine_is_told(machine: Running) -> None:
    async with client_of(machine) as client:
        told = await scrape(client)
        assert told["run_gateway_listening"] == 1
        assert 0 <= told["run_gateway_notification_queue_usage_ratio"] < 0.01
        assert told["run_gateway_pool_limit"] == machine.app.settings.pool_size
        busy, idle = (told[f"run_gateway_pool_connections{{{state}}}"] for state in ("busy", "idle"))
        assert 1 <= busy + idle <= machine.app.settings.pool_size
        assert told["run_gateway_pool_wait_seconds_count"] > 0
        assert told[f"run_gateway_machine_info{{{machine.app.machine}}}"] == 1
        assert told["run_gateway_draining"] == 0
        assert told["process_resident_memory_bytes"] > 1 << 20
        machine.app.begin_drain()
        assert (await scrape(client))["run_gateway_draining"] == 1


async def test_whoever_asks_for_openmetrics_is_given_it(machine: Running) -> None:
    async with client_of(machine) as client:
        answer = await client("GET", "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in openmetrics(answer.text)}  # type: ignore[no-untyped-call]
    assert families["run_gateway_appends"].type == "counter"
    assert families["run_gateway_commit_duration_seconds"].type == "histogram"
