"""Requests made up from the OpenAPI description: no fault of ours, and no status that it does not have.

Each operation by itself, and then by its links: what was created is appended to, read, ended and deleted, and what was
claimed is acked, in orders that nobody has thought of.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation.stateful.state_machine import StepOutput
from schemathesis.specs.openapi import expressions
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from gateway.http.openapi.links import LINKS
from tests.servers import PATIENCE, Running, serving

FEW = 8
EXAMPLES = int(os.environ.get("SCHEMA_EXAMPLES", f"{FEW}"))  # of each operation; more by hand
WALKS = 5 * EXAMPLES  # from operation to operation
STEPS = 12
CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]
MAKERS = ("PUT /v1/stream/{path}", "PUT /runs/{id}", "POST /runs", "PUT /v1/stream/__ds/subscriptions/{id}")
REACHED = {
    "PUT /v1/stream/{path} 201", "POST /v1/stream/{path} 204", "GET /v1/stream/{path} 200", "DELETE /runs/{id} 204",
    "POST /runs 201", "POST /runs/{id} 204", "POST /runs/{id} 409", "GET /runs/{id} 404", "POST /runs/{id}/cancel 202",
    "POST /v1/stream/__ds/subscriptions/{id}/claim 200", "POST /v1/stream/__ds/subscriptions/{id}/ack 200",
    "POST /v1/stream/__ds/subscriptions/{id}/release 204",
}  # fmt: skip
"""What a walk has to come by, or else it is none."""
BODIES: dict[str, Any] = {
    "runs": {}, "cancel": {}, "token": {}, "release": {}, "ack": {},
    "claim": {"worker": "w"}, "streams": {"streams": ["a", "runs/a"]},
}  # fmt: skip


@schemathesis.serializer("application/x-ndjson")
def _lines(_: Any, value: Any) -> bytes:
    return value.encode("utf-8", "replace") if isinstance(value, str) else bytes(value)


@pytest.fixture(scope="module")
def gateway(database_of_all: str) -> Iterator[Running]:
    limits: dict[str, Any] = {"max_subscription_changes": 10_000, "max_subscriptions_per_tenant": 10_000}
    with serving(database_of_all, "direct", sse_max_age=0.1, long_poll_timeout=0.05, **limits) as running:
        yield running


BUDGET = settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES == FEW,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

pytestmark = pytest.mark.filterwarnings(
    # The gateway is in this process, and draws jitter while hypothesis watches over `random`.
    "ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning"
)


def test_what_the_description_allows_is_answered_as_it_says(gateway: Running) -> None:
    schema = schemathesis.openapi.from_url(f"{gateway.url}/openapi.json")
    operations: list[Any] = [found.ok() for found in schema.get_all_operations()]  # type: ignore[union-attr]
    assert len(operations) > 25
    for operation in operations:
        _asked(operation)


def _asked(operation: Any) -> None:
    @BUDGET
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        _without_waiting(case)
        case.call_and_validate(checks=CHECKS, timeout=20)

    ask()


def _without_waiting(case: Any) -> None:
    if isinstance(case.query, dict) and "wait" in case.query:
        case.query["wait"] = 0


def test_what_answers_lead_to_is_answered_as_it_says(gateway: Running, caplog: pytest.LogCaptureFixture) -> None:
    """Walks along the links. Its wakes are pulled, so that nobody is called by a made-up name."""
    described = schemathesis.openapi.from_url
    schema = described(f"{gateway.url}/openapi.json")
    for (method, route), name, _, _, _ in LINKS:
        assert any(
            name in answer.get("links", ()) for answer in schema[route][method].definition.raw["responses"].values()
        )
    described(f"{gateway.url}/openapi.json").as_state_machine()  # raises where a link leads nowhere
    assert httpx.put(f"{gateway.url}/v1/stream/wake", headers={"content-type": "application/json"}).is_success
    seen = Counter[str]()
    cases = {found.ok().label: _cases(found.ok()) for found in schema.get_all_operations()}  # type: ignore[union-attr]
    for seed in range(20 * WALKS):
        if seed >= WALKS and seen.keys() >= REACHED:
            break
        walk = Walk(schema, cases, random.Random(seed))
        for _ in range(STEPS):
            seen[walk.step()] += 1
    assert seen.keys() >= REACHED
    assert not [record.getMessage() for record in caplog.records if record.exc_info or record.levelname == "ERROR"]


def _cases(operation: Any) -> list[Any]:
    """Requests for one operation; made before any is sent, since hypothesis must not see what the answers change."""
    found = []

    @BUDGET
    @given(case=operation.as_strategy())
    def collect(case: Any) -> None:
        _without_waiting(case)
        found.append(case)

    collect()
    return found


class Walk:
    """From one answer to what it leads to. `chance` decides; `cases` has made-up requests for each operation."""

    def __init__(self, schema: Any, cases: dict[str, list[Any]], chance: random.Random) -> None:
        self._schema = schema
        self._cases = cases
        self._chance = chance
        self._outputs: list[tuple[StepOutput, dict[str, Any]]] = []  # and the links of each
        self._claim: Any = None

    def step(self) -> str:
        """Sends one request, and holds its answer against the description. Returns what was asked and the status."""
        leading = [(output, link) for output, links in self._outputs for link in links.values()]
        if leading and self._chance.random() < 0.8:
            output, link = self._chance.choice(leading)
            case = self._chance.choice(self._cases[self._schema.find_operation_by_id(link["operationId"]).label])
            self._simplify(case)
            for name, expression in link["parameters"].items():
                value = expressions.evaluate(expression, output)
                if isinstance(value, str):  # else the source was asked, or has answered, without it
                    self._set(case, name, value)
            if "requestBody" in link:
                case.media_type = "application/json"
                case.body = expressions.evaluate(link["requestBody"], output, evaluate_nested=True)
        else:
            case = self._chance.choice(self._cases[self._chance.choice(MAKERS)])
            self._simplify(case)
        self._complete(case)
        response = case.call(timeout=PATIENCE)
        case.validate_response(response, checks=CHECKS)
        if case.path.endswith("/claim") and response.status_code == 200:
            self._claim = response.json()
        described = case.operation.definition.raw["responses"].get(str(response.status_code), {})
        if "links" in described:
            self._outputs.append((StepOutput(response, case), described["links"]))
        return f"{case.method} {case.path} {response.status_code}"

    def _simplify(self, case: Any) -> None:
        """Makes most requests plain, since what is made up is mostly refused before it meets a state."""
        if self._chance.random() < 0.2:
            return
        case.headers, case.query = {}, {}
        for name in case.path_parameters or {}:
            self._set(case, f"path.{name}", self._chance.choice("abc"))
        name = case.path.rpartition("/")[2]
        if name in BODIES:
            case.body, case.media_type = dict(BODIES[name]), "application/json"
        elif case.method in ("PUT", "POST") and name != "heartbeat":
            case.media_type = self._chance.choice(("application/json", "application/json", "text/plain"))
            case.headers = {"Content-Type": case.media_type}
            case.body = self._chance.choice((b"[1]", b"[1,2]", b'{"a":1}'))
            if case.method == "POST" and self._chance.random() < 0.2:
                case.headers["Stream-Closed"] = "true"

    def _set(self, case: Any, name: str, value: Any) -> None:
        where, _, name = name.partition(".")
        held = {"path": "path_parameters", "query": "query", "header": "headers"}[where]
        setattr(case, held, {**(getattr(case, held) or {}), name: value})

    def _complete(self, case: Any) -> None:
        """What no schema says: wakes are pulled, from a stream that is there, and workers show the token of theirs."""
        name = case.path.rpartition("/")[2]
        if case.method == "PUT" and "/subscriptions/" in case.path:
            case.body = {"type": "pull-wake", "pattern": "**", "wake_stream": "wake"}
        elif name in ("ack", "release") and self._claim is not None:
            case.headers = {"Authorization": f"Bearer {self._claim['token']}"}
            if name == "ack" and self._chance.random() < 0.7:
                case.body["acks"] = [
                    {"stream": work["path"], "offset": work["tail_offset"]} for work in self._claim["streams"]
                ]
                case.body["done"] = True
