"""Does what the schedule says to Machines, their ways and their Postgres. Every fault ends, and leaves things whole."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from loadtests.survival import schedule
from loadtests.survival.calm import Calm
from loadtests.survival.cluster import Cluster
from loadtests.survival.fleet import Fleet, Site, frozen, launch
from loadtests.survival.flue import App
from loadtests.survival.flue import Site as FlueSite
from loadtests.survival.houses import LEASE, House
from loadtests.survival.ledger import WRONG
from loadtests.survival.probe import Probe, open_probe
from loadtests.survival.schedule import Fault
from tests.tools.database import GONE
from tests.tools.pgbouncer import PgBouncerFailed
from tests.tools.proxy import Proxy

OFF = 600  # seconds that a clock is wrong by
BEHIND = 0.3  # seconds that a standby lags beyond the first event, at most: others come soon in place of what is lost
READ_ONLY = 3.0  # seconds that a primary is, at most, before it is handed over


class Nemesis:
    """`paths` are the streams that are being written, for the fault that has to know. `done` counts faults by kind.

    `takeovers`: when another server had come to the address, by the monotonic clock; `probes`: how many of these were
    certain to lose something. `calm` is kept by clients whose work no lagging standby may lack. `over` is called when
    something was found to be wrong.
    """

    def __init__(
        self,
        fleet: Fleet,
        app: App | None,
        paths: Callable[[], Sequence[str]],
        tell: Callable[[str], None],
        calm: Calm,
        over: Callable[[], None],
    ) -> None:
        self.done: Counter[str] = Counter()
        self.takeovers: list[float] = []
        self.probes = 0
        self._calm = calm
        self._over = over
        self._fleet = fleet
        self._app = app
        self._paths = paths
        self._tell = tell
        self._restarting = asyncio.Lock()
        self._taking_over = asyncio.Lock()
        self._replacing = asyncio.Lock()
        self._setting = asyncio.Lock()
        self._pooling = asyncio.Lock()
        self._detaching = asyncio.Lock()
        self._faults = {
            schedule.KILL: self._kill,
            schedule.TERMINATE: self._terminate,
            schedule.INTERRUPT: self._interrupt,
            schedule.FREEZE: self._freeze,
            schedule.CLOCK: self._set_clock,
            schedule.CUT: self._cut,
            schedule.TEAR: self._tear,
            schedule.SILENCE: self._silence,
            schedule.CUT_DATABASE: self._cut_database,
            schedule.SILENCE_DATABASE: self._silence_database,
            schedule.RESTART: self._restart,
            schedule.CRASH: self._crash,
            schedule.FULL: self._fill,
            schedule.POOLER: self._kill_pooler,
            schedule.LISTENERS: self._listeners,
            schedule.BACKENDS: self._backends,
            schedule.BLOCK: self._block,
            schedule.FAILOVER: self._fail_over,
            schedule.HANDOVER: self._hand_over,
            schedule.LAGGING: self._lag,
            schedule.PAUSE_REPLICA: self._pause_replica,
            schedule.CUT_REPLICA: self._cut_replica,
            schedule.SILENCE_REPLICA: self._silence_replica,
            schedule.PROMOTE_REPLICA: self._promote_replica,
        }
        self._faults |= {
            schedule.KILL_APP: self._kill_app,
            schedule.FREEZE_APP: self._freeze_app,
            schedule.OVERTAKE: self._overtake,
            schedule.APART: self._cut_between,
            schedule.SILENCE_APART: self._silence_between,
        }
        self._faults_of_flue = {
            schedule.KILL_FLUE: self._kill_flue,
            schedule.TERMINATE_FLUE: self._terminate_flue,
            schedule.FREEZE_FLUE: self._freeze_flue,
            schedule.CUT_FLUE: self._cut_flue,
            schedule.DETACH: self._detach,
        }

    async def play(self, faults: Sequence[Fault]) -> None:
        """All of them, each at its time, whether or not the one before has ended. Returns when everything is healed."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for fault in faults:
                await asyncio.sleep(max(0.0, began + fault.at - time.monotonic()))
                tasks.create_task(self._commit(fault))

    async def roll(self) -> None:
        """A rolling deploy: each Machine in turn is asked to end, and a new one takes its place before the next."""
        for number, site in enumerate(self._fleet.sites):
            self._tell(f"deploying Machine {number}")
            async with site.busy:
                await site.terminate()
                self.done[schedule.TERMINATE] += 1
                await site.start()

    async def _commit(self, fault: Fault) -> None:
        self._tell(f"{fault.at:6.1f} s  {fault.kind}, Machine {fault.machine}, {fault.lasts:.1f} s")
        self.done[fault.kind] += 1
        if fault.kind in self._faults:
            await self._faults[fault.kind](self._fleet.sites[fault.machine], fault.lasts)
        else:
            assert self._app is not None, "its faults are drawn where there is one"
            await self._faults_of_flue[fault.kind](self._app, fault)

    async def _kill(self, site: Site, seconds: float) -> None:
        async with site.busy:
            await site.machine.kill()
            await asyncio.sleep(seconds)
            await site.start()

    async def _terminate(self, site: Site, seconds: float) -> None:
        async with site.busy:
            await site.terminate()
            await asyncio.sleep(seconds)
            await site.start()

    async def _interrupt(self, site: Site, seconds: float) -> None:
        async with site.busy:
            await site.terminate(signal.SIGINT)
            await asyncio.sleep(seconds)
            await site.start()

    async def _set_clock(self, _: Site, seconds: float) -> None:
        """It is fast, then slow, and right again."""
        clock = self._fleet.clock
        assert clock is not None, "its faults are drawn where there is one"
        async with self._setting:
            for off in (OFF, -OFF):
                clock.set(off)
                await asyncio.sleep(seconds)
            clock.set(0)

    async def _freeze(self, site: Site, seconds: float) -> None:
        async with site.busy:
            with frozen(site.machine):
                await asyncio.sleep(seconds)

    async def _cut(self, site: Site, seconds: float) -> None:
        await _cut(site.front, seconds)

    async def _tear(self, site: Site, _: float) -> None:
        site.front.cut_before(b"event: control", "end")
        site.front.cut_before(b"event: control", "reset")

    async def _silence(self, site: Site, seconds: float) -> None:
        with site.front.silence():
            await asyncio.sleep(seconds)

    async def _cut_database(self, site: Site, seconds: float) -> None:
        async with site.linked:
            await _cut(site.back, seconds)

    async def _silence_database(self, site: Site, seconds: float) -> None:
        async with site.linked:
            with site.back.silence():
                await asyncio.sleep(seconds)

    async def _restart(self, _: Site, __: float) -> None:
        async with self._restarting:
            await self._fleet.database.restart("fast")

    async def _crash(self, _: Site, __: float) -> None:
        async with self._restarting:
            await self._fleet.database.restart("immediate")

    async def _fill(self, _: Site, seconds: float) -> None:
        disk = self._fleet.database.disk
        assert disk is not None, "its faults are drawn where there is one"
        async with self._restarting:
            with disk.full():
                await asyncio.sleep(seconds)

    async def _kill_pooler(self, _: Site, seconds: float) -> None:
        pooler = self._fleet.pooler
        assert pooler is not None, "its faults are drawn where there is one"
        async with self._pooling:
            await pooler.kill()
            await asyncio.sleep(seconds)
            await launch(pooler, PgBouncerFailed)

    async def _listeners(self, _: Site, __: float) -> None:
        await self._ask(self._fleet.database.terminate_listeners)

    async def _backends(self, _: Site, __: float) -> None:
        await self._ask(self._fleet.database.terminate_backends)

    async def _block(self, _: Site, seconds: float) -> None:
        async def block() -> None:
            async with self._fleet.database.blocking(self._paths()):
                await asyncio.sleep(seconds)

        await self._ask(block)

    async def _fail_over(self, _: Site, __: float) -> None:
        await self._take_over(self._cluster.fail_over)

    async def _hand_over(self, _: Site, seconds: float) -> None:
        await self._take_over(partial(self._cluster.hand_over, min(seconds, READ_ONLY)))

    async def _lag(self, _: Site, seconds: float) -> None:
        """What is acknowledged meanwhile is lost. A probe sees to it that something is, and its readers are told."""

        def wrong(note: str) -> None:
            self._fleet.findings.add(WRONG, note)
            self._over()

        async def lag(probe: Probe) -> None:
            await probe.begin()
            async with self._calm.ended():
                await self._cluster.fall_behind()
                await probe.lose()
                await asyncio.sleep(min(seconds, BEHIND))
                await self._cluster.fail_over()

        async with open_probe(self._fleet.doors, wrong) as probe:
            if await self._take_over(partial(lag, probe)):
                await probe.judge()
                self.probes += 1

    async def _pause_replica(self, _: Site, seconds: float) -> None:
        async with self._replacing:
            await self._cluster.pause_replica(seconds)

    async def _cut_replica(self, _: Site, seconds: float) -> None:
        await _cut(self._near, seconds)

    async def _silence_replica(self, _: Site, seconds: float) -> None:
        with self._near.silence():
            await asyncio.sleep(seconds)

    async def _promote_replica(self, _: Site, seconds: float) -> None:
        async with self._replacing, self._taking_over:
            await self._cluster.promote_replica(seconds)

    @property
    def _near(self) -> Proxy:
        near = self._cluster.near
        assert near is not None, "its faults are drawn where there is one"
        return near

    async def _take_over(self, act: Callable[[], Awaitable[None]]) -> bool:
        """By another server, which then gets a standby of its own. False: there is none, and nothing was done."""
        if self._taking_over.locked():
            self._tell("          … and there is no standby yet")
            return False
        async with self._taking_over, self._restarting:
            began = time.monotonic()
            await act()
            self.takeovers.append(time.monotonic())
            self._tell(f"          … another server has taken over after {self.takeovers[-1] - began:.1f} s")
            await self._cluster.has_follower()
            self._tell(f"          … and is followed after {time.monotonic() - began:.1f} s")
        return True

    @property
    def _cluster(self) -> Cluster:
        database = self._fleet.database
        assert isinstance(database, Cluster), "its faults are drawn where there is one"
        return database

    async def _kill_app(self, site: Site, seconds: float) -> None:
        async with site.busy:
            await _house(site).app.kill()
            await asyncio.sleep(seconds)
            await _house(site).launch()

    async def _freeze_app(self, site: Site, seconds: float) -> None:
        """What has been written to it reaches it late, and nobody can tell: so its gateway is left in peace."""
        async with site.busy, site.linked, self._pooling, self._restarting:
            with frozen(_house(site).app):
                await asyncio.sleep(seconds)

    async def _overtake(self, site: Site, seconds: float) -> None:
        await self._freeze(site, LEASE + 3 + seconds)  # until others have counted it, and taken over

    async def _cut_between(self, site: Site, seconds: float) -> None:
        await _cut(_house(site).between, seconds)

    async def _silence_between(self, site: Site, seconds: float) -> None:
        with _house(site).between.silence():
            await asyncio.sleep(seconds)

    async def _kill_flue(self, app: App, fault: Fault) -> None:
        async with _one_of(app, fault) as site:
            await site.server.kill()
            await asyncio.sleep(fault.lasts)
            await site.start()

    async def _terminate_flue(self, app: App, fault: Fault) -> None:
        async with _one_of(app, fault) as site:
            await site.terminate()
            await site.start()

    async def _freeze_flue(self, app: App, fault: Fault) -> None:
        async with _one_of(app, fault) as site:
            with frozen(site.server):
                await asyncio.sleep(fault.lasts)

    async def _cut_flue(self, app: App, fault: Fault) -> None:
        async with _one_of(app, fault) as site:
            await _cut(site.back, fault.lasts)

    async def _detach(self, app: App, fault: Fault) -> None:
        async with self._detaching:
            await self._ask(app.detach)
            await asyncio.sleep(fault.lasts)
            await self._ask(app.attach)

    async def _ask(self, fault: Callable[[], Awaitable[None]]) -> None:
        """A fault by way of Postgres, which another fault may have taken away just now."""
        try:
            await fault()
        except GONE as error:
            self._tell(f"          … and Postgres was away ({type(error).__name__})")


@asynccontextmanager
async def _one_of(app: App, fault: Fault) -> AsyncIterator[FlueSite]:
    site = app.sites[fault.machine % len(app.sites)]
    async with site.busy:
        yield site


def _house(site: Site) -> House:
    assert site.house is not None, "its faults are drawn where there is one"
    return site.house


async def _cut(way: Proxy, seconds: float) -> None:
    """Whoever comes back is cut off again, until it is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        way.cut("reset")
        await asyncio.sleep(0.1)
        way.cut("end")
        await asyncio.sleep(0.1)
