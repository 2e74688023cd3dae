"""The dispatcher of a Machine looks for work of subscriptions, wakes them, and delivers webhooks.

It keeps nothing that another Machine would miss: only hints (which paths were appended to) and the attempts that it is
making. When a Machine dies, others make its attempts again as soon as their time is up.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

from gateway.outage import Outage
from gateway.protocol.errors import Unavailable
from gateway.protocol.target import shown
from gateway.subscriptions.attempts import TIMEOUT, Deliver, Outcome
from gateway.subscriptions.records import EACH, Delivery
from gateway.subscriptions.rules import retry_delay
from gateway.subscriptions.shares import MOST_OF_HOST, Shares, chosen
from gateway.subscriptions.signing import Keys
from gateway.subscriptions.store import Store
from gateway.subscriptions.waking import Waking
from gateway.subscriptions.watch import Watch
from gateway.tasks import end, forever, kept, turn

logger = logging.getLogger("gateway.subscriptions.dispatcher")

_MOST_DUE: Final = 1_000  # deliveries to choose from in one turn
_MOST_UNLINKED: Final = 20  # subscriptions
_MOST_WAKES: Final = 200  # in one turn
_HOLD: Final = TIMEOUT + 5.0  # seconds after which an attempt whose outcome was not reported is made again
_BREATH: Final = 0.05  # seconds between two turns: on a busy log it looks some times a second, not at every commit
_LEISURE: Final = 20  # looking for idle subscriptions may take one part in so many of the time
_TIDY_INTERVAL: Final = 300.0  # seconds, give or take a half
_TIDY_SOON: Final = 30.0
_TIDY_ROWS: Final = 1_000  # looked at in one step: among a million links, tens of milliseconds
_LONGEST_PAUSE: Final = 10.0  # seconds between looks, however long they take
_PARTING: Final = 2.0  # seconds that attempts have to end at shutdown


class Dispatcher:
    """The one loop. `scan_interval`: seconds between looks without a hint. `away`: the outage of the database."""

    def __init__(
        self,
        store: Store,
        watch: Watch,
        deliver: Deliver,
        keys: Callable[[], Awaitable[Keys]],
        *,
        scan_interval: float,
        away: Outage | None = None,
    ) -> None:
        self._store = store
        self._watch = watch
        self._ask = deliver
        self._keys = keys
        self._interval = scan_interval
        self._rung = asyncio.Event()
        self._deliveries: dict[asyncio.Task[None], Delivery] = {}
        self._linking: asyncio.Task[None] | None = None
        self._shares = Shares()
        self.attempts: dict[str, int] = {outcome.value: 0 for outcome in Outcome}
        self._waking = Waking(store, self.ring)
        self._task: asyncio.Task[None] | None = None
        self._tidy_at = float("inf")
        self._round_at = 0.0  # when the next round is due
        self._look_at = 0.0  # when to look for idle subscriptions with work, which may take longer
        self._may_deliver = False
        self._asked = 0  # how often `refresh` was called
        self._learned = 0  # the last call that is answered
        self._learning = asyncio.Lock()
        self._breath = 0.0  # until when it takes breath
        self._turning = asyncio.Lock()
        self._outage = Outage(logger, "Subscriptions wait for the database (%r).", "Subscriptions go on.", within=away)

    def start(self) -> None:
        self._tidy_at = asyncio.get_running_loop().time() + _TIDY_INTERVAL * random.uniform(0.5, 1.5)
        self._task = kept("subscriptions", self._run)

    async def stop(self) -> None:
        """Ends. Attempts that do not end in time are given back, for another Machine to make at once."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PARTING):
                await self._turning.acquire()  # the turn under way ends, and there is no other
        await end(self._task, self._linking)
        await self._waking.close()
        under_way = dict(self._deliveries)
        if under_way:
            _, late = await asyncio.wait(under_way, timeout=_PARTING)
            await end(*late)
            for task in late:
                with suppress(Unavailable):  # then another Machine makes it when its time is up
                    await self._store.give_back(under_way[task])

    def ring(self) -> None:
        """Looks for deliveries to make, soon."""
        self._may_deliver = True
        self._rung.set()

    def hint(self) -> None:
        """The watch has noticed an append that may concern a subscription."""
        self._rung.set()

    def tidy_soon(self) -> None:
        """A stream or a subscription was deleted: its links are to be removed before long."""
        self._tidy_at = min(self._tidy_at, asyncio.get_running_loop().time() + _TIDY_SOON)

    async def refresh(self) -> None:
        """Learns at once what is subscribed to, since a request has changed it here. Raises Unavailable."""
        self._asked += 1
        asked = self._asked
        async with self._learning:
            if self._learned < asked:  # else another call has asked since, for all that waited
                as_of = self._asked
                self._watch.learn(await self._store.interest(self._watch.interest))
                self._learned = as_of
        self.ring()

    async def _run(self) -> None:
        await forever("Looking after subscriptions", self._step, self._pause, self._outage, bell=self._rung)

    def _pause(self) -> float:
        return max(self._round_at - asyncio.get_running_loop().time(), 0)

    async def _step(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._turning:
            await asyncio.sleep(self._breath - loop.time())
            if self._outage.lasts:
                self._round_at = 0.0  # which asks the database for certain: only its answer ends the outage
            try:
                await self._turn(loop.time())
            except Exception:
                self._watch.overflowed = True  # what was gathered is lost: the next round looks at everything
                raise
            finally:
                self._breath = loop.time() + _BREATH

    async def _turn(self, now: float) -> None:
        paths = self._watch.take()
        if now >= self._round_at:
            self._round_at = now + self._interval * random.uniform(0.8, 1.0)  # Machines look in turns
            await self._round(now)
        if paths and self._some:
            await self._wake(await self._store.to_wake(paths, _MOST_WAKES))
        if self._may_deliver and self._some:
            self._may_deliver = False
            await self._deliver()

    async def _round(self, now: float) -> None:
        """Does a round every `scan_interval`, with or without a hint: it takes over what a dead Machine has left."""
        self._watch.learn(await self._store.interest(self._watch.interest))
        if now >= self._tidy_at:
            await self._tidy()
        if self._some:
            if self._linking is None or self._linking.done():
                self._linking = asyncio.create_task(self._link(), name="linking subscriptions")
            idle = now >= self._look_at or self._watch.overflowed
            if idle:
                self._watch.overflowed = False
            began = asyncio.get_running_loop().time()
            neglected = await self._store.neglected(_MOST_WAKES, idle=idle)
            if idle:
                took = asyncio.get_running_loop().time() - began
                self._look_at = now + min(took * _LEISURE, _LONGEST_PAUSE)
            await self._wake(neglected)
            self._may_deliver = True

    @property
    def _some(self) -> bool:
        return self._watch.interest is not None and self._watch.interest.subscriptions > 0

    async def _wake(self, candidates: list[tuple[int, str | None]]) -> None:
        self._may_deliver |= await self._waking.wake(candidates)
        if len(candidates) == _MOST_WAKES:
            self._watch.overflowed = True  # there may be more of them: look again at once
            self._round_at = 0.0

    async def _link(self) -> None:
        """Goes on with what a request, or another Machine, has begun."""
        try:
            await self._store.link_on(_MOST_UNLINKED)
        except Unavailable:
            pass  # the next round tries again, and tells of the outage
        except Exception:
            logger.exception("Subscriptions could not be linked to all streams; the next round tries again.")

    async def _deliver(self) -> None:
        if not self._shares.free:
            return  # the next attempt to end rings
        keys = await self._keys()
        due = chosen(self._shares, await self._store.due(MOST_OF_HOST, _MOST_DUE))
        owners = {number: (tenant, host) for number, tenant, host in due}
        try:
            for delivery in await self._store.claim_deliveries(_HOLD, list(owners)) if owners else ():
                task = asyncio.create_task(self._attempt(delivery, keys))
                self._deliveries[task] = delivery
                task.add_done_callback(partial(self._attempted, *owners.pop(delivery.subscription)))
        finally:
            for owner in owners.values():  # another Machine makes these
                self._shares.give_back(*owner)

    def _attempted(self, tenant: str, host: str, task: asyncio.Task[None]) -> None:
        del self._deliveries[task]
        self._shares.give_back(tenant, host)
        self.ring()  # there may be a next wake, and there is room for one more attempt
        if not task.cancelled() and task.exception() is not None:
            logger.error("A delivery to a webhook failed unexpectedly; it is made again.", exc_info=task.exception())

    async def _attempt(self, delivery: Delivery, keys: Keys) -> None:
        # Many are begun at one time, and each describes up to a thousand streams.
        await turn(EACH * len(delivery.links))
        outcome, reason = await self._ask(delivery, keys)
        self.attempts[outcome.value] += 1
        try:
            match outcome:
                case Outcome.DONE:
                    await self._store.finished(delivery)
                case Outcome.TAKEN:
                    await self._store.delivered(delivery)
                case Outcome.FAILED:
                    delay = retry_delay(delivery.failures + 1, random.uniform(-1, 1))
                    logger.warning(
                        "Webhook of subscription %s failed (%s); again in %.1f s.", shown(delivery.id), reason, delay
                    )
                    await self._store.failed(delivery, delay)
                    asyncio.get_running_loop().call_later(delay, self.ring)
        except Unavailable:
            logger.warning("The outcome of a delivery to a webhook could not be recorded; the delivery is made again.")

    async def _tidy(self) -> None:
        if not await self._store.tidy(_TIDY_ROWS):
            now = asyncio.get_running_loop().time()
            self._tidy_at = now + _TIDY_INTERVAL * random.uniform(0.5, 1.5)
