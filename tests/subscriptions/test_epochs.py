"""A server takes over that lacks what was acked: such an ack is refused, and what comes in its place is delivered."""

from __future__ import annotations

from gateway.subscriptions.errors import Code
from gateway.subscriptions.rules import Ack, Settlement
from gateway.subscriptions.store import Store
from tests.subscriptions.store_tools import HOOK, claim_deliveries, refused, woken
from tests.subscriptions.tools import Streams


async def test_an_ack_of_what_was_lost_moves_no_cursor(store: Store, streams: Streams) -> None:
    await store.create("s", HOOK)
    await streams.create("runs/1", b"1")
    assert await woken(store)
    [delivery] = await claim_deliveries(store, 15, 10)
    epoch = await streams.value("SELECT run_gateway.new_epoch()")
    lost, new = 2, epoch << 40 | 2
    ack = Settlement(1, delivery.wake_id, (Ack("runs/1", lost),), False)
    await refused(Code.INVALID_OFFSET, store.settle("s", None, 1, ack))
    await streams.append("runs/1")
    await refused(Code.INVALID_OFFSET, store.settle("s", None, 1, ack))
    assert await store.finished(delivery), "there is more"
    [delivery] = await claim_deliveries(store, 15, 10)
    assert [(link.path, link.tail) for link in delivery.links] == [("runs/1", new)]
    await store.settle("s", None, 2, Settlement(2, delivery.wake_id, (Ack("runs/1", new),), True))
    assert not await woken(store)
