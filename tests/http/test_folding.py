"""Few folds are made at a time, by turns of tenants."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from gateway.http import folding
from gateway.http.folding import EACH, LIVE, MOST, Folding
from gateway.protocol.batch import Batch, Encoding
from gateway.protocol.errors import TooManyReads
from gateway.protocol.fold import Fold
from gateway.protocol.target import within
from gateway.tasks import LITTLE

FOLD = Fold(("type",), ("text",))


class Works:
    """Folds of pages that last until they are told to end."""

    def __init__(self) -> None:
        self.folding = Folding()
        self.going = asyncio.Event()
        self.inside: list[str] = []

    async def one(self, tenant: str) -> None:
        async with self.folding.turn(within(tenant, "runs/1")):
            self.inside.append(tenant)
            await self.going.wait()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_tenant_with_many_folds_leaves_turns_to_others() -> None:
    works = Works()
    async with asyncio.TaskGroup() as group:
        for tenant in ("a", "a", "a", "a", "b"):
            group.create_task(works.one(tenant))
        await settled()
        assert works.inside == ["a"] * EACH + ["b"]
        for tenant in ("c", "d"):
            group.create_task(works.one(tenant))
        await settled()
        assert len(works.inside) == MOST
        works.going.set()
    assert sorted(works.inside) == list("aaaabcd")


async def test_a_fold_that_nobody_waits_for_takes_no_turn() -> None:
    works = Works()
    first = [asyncio.create_task(works.one(tenant)) for tenant in ("a", "a", "b", "b", "a", "c")]
    await settled()
    for task in first[-2:]:  # one waits for its tenant, one for all
        task.cancel()
    works.going.set()
    await asyncio.gather(*first, return_exceptions=True)
    async with AsyncExitStack() as stack:
        for tenant in ("a", "a", "c", "c"):
            await stack.enter_async_context(works.folding.turn(within(tenant, "runs/1")))


@pytest.mark.parametrize("tenant", ["a", "c"])
async def test_a_fold_that_waits_too_long_is_refused(monkeypatch: pytest.MonkeyPatch, tenant: str) -> None:
    monkeypatch.setattr(folding, "PATIENCE", 0.01)
    works = Works()
    async with asyncio.TaskGroup() as group:
        for other in ("a", "a", "b", "b"):
            group.create_task(works.one(other))
        await settled()
        with pytest.raises(TooManyReads):
            await works.one(tenant)
        works.going.set()


async def test_few_live_folds_are_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the small ones, which hold little, do not wait for the others."""
    inside = 0
    going = asyncio.Event()

    async def folded(fold: Fold | None, encoding: Encoding, batch: Batch) -> Batch:
        nonlocal inside
        inside += 1
        if len(batch.body) > LITTLE:
            await going.wait()
        return batch

    monkeypatch.setattr(folding, "folded", folded)
    works = Folding()
    large = Batch(0, 1, b"1" * (LITTLE + 1), True, False)
    async with asyncio.TaskGroup() as group:
        for _ in range(3 * LIVE):
            group.create_task(works.live(FOLD, "runs/1", Encoding.JSON, large))
        await settled()
        assert inside == LIVE
        await works.live(FOLD, "runs/1", Encoding.JSON, Batch(0, 1, b"1", True, False))
        assert inside == LIVE + 1
        going.set()
    assert inside == 3 * LIVE + 1
