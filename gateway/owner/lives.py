"""The life of this Machine, which goes on as long as it beats, and the lives of the others, as far as it knows them."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from gateway.outage import Outage
from gateway.owner import rules
from gateway.owner.process import Process
from gateway.owner.shared import Alone
from gateway.owner.store import Life, Store
from gateway.protocol.errors import ProtocolError, Unavailable
from gateway.tasks import end, kept

logger = logging.getLogger("gateway.owner")

NEVER: Final = -math.inf
_FASTEST: Final = 0.05  # seconds between two tries to begin a life, at least


def clock() -> float:
    """Steady seconds, which go on while this process, or its whole host, is stopped."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Lives:
    """The lives that one process knows. `shared`: what it shares with other workers of its Machine; `address`: where
    other gateways reach the Machine.

    `ended` is called with each life that has ended, this Machine's own as well, as soon as nothing is sent by it any
    more.
    """

    def __init__(
        self,
        store: Store,
        process: Process,
        lease: float,
        shared: Alone,
        address: Callable[[], str],
        fly: str | None,
        clock: Callable[[], float] = clock,
    ) -> None:
        self.lease = lease
        self.life: int | None = None
        self.others: dict[int, Life] = {}
        self.shared = shared
        self.told_of_drain = False  # the database knows, and gives this life nothing more
        self.ended: Callable[[int], None] = lambda _: None
        self.begun = 0
        self.dead = 0  # lives of others that were ended here
        self._clock = clock
        self._store = store
        self._process = process
        self._address = address
        self._fly = fly
        self._until = NEVER  # when the belief is over
        self._patient = NEVER  # until when nothing is taken
        self._app: str | None = None
        self._watch = rules.Watch(lease)
        self._away: float | None = None  # since when the application accepts no connections
        self._news = asyncio.Event()
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._silent = Outage(
            logger,
            "The application behind the gateway accepts no connections: what it owned goes to other Machines in %g s.",
            "The application behind the gateway accepts connections again.",
        )

    async def start(self) -> None:
        """Begins a life, if the database and the application are there, and goes on beating."""
        with suppress(ProtocolError):
            await self._step()
        self._task = kept("owner's beats", self._run, again=self.lease / rules.LOOKS)

    async def stop(self) -> None:
        """Ends the life, unless other workers go on with it: what it owned is free at once."""
        await end(self._task)
        life = self._lose()
        if life is not None and self.shared.drain():
            with suppress(ProtocolError, TimeoutError):  # then others count its lease
                async with asyncio.timeout(self.lease / 2):
                    await self._end(life)
        await self._store.close()
        self._process.close()
        self.shared.close()

    def holds(self, life: int) -> bool:
        """Whether this Machine may send something to its application by this life, at this very moment."""
        return life == self.life and self._clock() < self._until and life not in self.shared.ended

    def same_process(self) -> bool:
        """Whether the application is the process to which the life belongs. If not, the life is over."""
        word = self._process.word
        if word is None or word == self._app:
            return True  # without one, nothing can reach it
        self.hurry()
        return False

    @property
    def draining(self) -> bool:
        """Whether the Machine is about to end."""
        return self.shared.draining

    @property
    def can_take(self) -> bool:
        """Whether this Machine may be given a key."""
        if self.life is None or self.draining or self._away is not None or self._clock() < self._patient:
            return False
        return self.holds(self.life)

    def switched(self) -> None:
        """Another database server has taken over, which may lack what was taken last: nothing is taken until whoever
        has it believes in it no more.
        """
        self._patient = self._clock() + max([self.lease, *(each.lease for each in self.others.values())])

    def healthy(self) -> list[Life]:
        """Other lives that may be given a key, and were heard of lately."""
        return [life for life in self.others.values() if not life.draining and not self.suspect(life.life)]

    def suspect(self, life: int) -> bool:
        """Whether a life of another Machine was silent for so long that it may be none."""
        return life not in self.others or self._watch.suspect(life)

    def hurry(self) -> None:
        """Beats now, and not when the next beat is due."""
        self._hurry.set()

    async def news(self, seconds: float) -> None:
        """Returns after the next beat, or look at the others, at the latest after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    async def _run(self) -> None:
        pause = self.lease / rules.LOOKS
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._hurry.wait()
            self._hurry.clear()
            try:
                await self._step()
                pause = self.lease / rules.LOOKS
            except Unavailable:  # the database's own outage is told of elsewhere
                pause = max(_FASTEST, self.lease / rules.LOOKS / 5)
            finally:
                self._news.set()
                self._news = asyncio.Event()

    async def _step(self) -> None:
        await self._look_at_process()
        if self.life is None and self._away is None:
            await self._begin()
        asked = self._clock()
        draining = self.draining
        found = await self._store.beat(self.life, draining)
        answered = self._clock()
        if self.life is not None:
            if found.alive:
                self._until = max(self._until, rules.believed(asked, self.lease))
                self.told_of_drain = draining
            else:
                logger.warning("Another Machine has taken over from this one, which was silent for its lease.")
                self._lose()
                self.hurry()
        gone = set(self.others) - set(found.lives)
        self.others = {life: each for life, each in found.lives.items() if life != self.life}
        self._watch.look(asked, answered, {life: (each.beats, each.lease) for life, each in self.others.items()})
        for life in gone:
            self.ended(life)
        for life, beats in self._watch.dead().items():
            if await self._store.end(life, beats):
                self.dead += 1
                logger.warning("The Machine at %s is silent: others take over.", self.others[life].address)
                del self.others[life]
                self.ended(life)

    async def _look_at_process(self) -> None:
        await self._process.look()
        word = self._process.word
        if word is None:
            self._silent.begin(self.lease)
            self._away = self._clock() if self._away is None else self._away
            over = self._clock() - self._away >= self.lease
        else:
            self._silent.end()
            self._away = None
            over = word != self._app
        if over and self.life is not None:
            logger.warning(
                "The application behind the gateway is another process now, or none: this Machine owns no conversation"
                " until it has begun a new life."
            )
            life = self._lose()
            assert life is not None
            await self._end(life)

    async def _end(self, life: int) -> None:
        self.shared.end(life)  # before others can know
        await self._store.end(life)

    async def _begin(self) -> None:
        word = self._process.word
        if word is None:
            return
        life = await self._store.begin(self.shared.machine, self._address(), self._fly, word)
        self._app, self._until = word, NEVER  # the beat that follows says that it goes on
        self.life = life
        self.begun += 1

    def _lose(self) -> int | None:
        """Ends this life for itself: nothing is sent by it from here on."""
        life, self.life, self._until = self.life, None, NEVER
        if life is not None:
            self.ended(life)
        return life
