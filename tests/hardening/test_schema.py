"""Requests made up from the OpenAPI description: no fault of ours, and no status that it does not have."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import status_code_conformance

from tests.databases import Postgres
from tests.servers import Running, serving

EXAMPLES = int(os.environ.get("SCHEMA_EXAMPLES", "8"))  # of each operation; more by hand


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def database_of_all(postgres: Postgres) -> AsyncIterator[str]:
    async with postgres.database() as url:
        yield url


@pytest.fixture(scope="module")
def gateway(database_of_all: str) -> Iterator[Running]:
    with serving(database_of_all, "direct", sse_max_age=0.1, long_poll_timeout=0.05) as running:
        yield running


BUDGET = settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES == 8,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


# The gateway is in this process, and draws jitter while hypothesis watches over `random`.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning")
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
        if isinstance(case.query, dict) and "wait" in case.query:
            case.query["wait"] = 0
        case.call_and_validate(checks=[not_a_server_error, status_code_conformance], timeout=20)

    ask()
