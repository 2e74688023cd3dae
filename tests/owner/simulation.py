"""Machines over a database, in simulated time: real `Lives` by real rules, and everything else drawn by chance.

Each question to the database is on its way, is carried out, and its answer is on its way back, with any time between
them; a Machine may stand still at each of these points. Clocks show anything and run differently, within what the
margin allows. Judged is what the applications get: of one conversation, nothing of an epoch after something of a later
one.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass, field
from types import coroutine
from typing import Any, Final
from uuid import UUID

from gateway.owner import rules
from gateway.owner.lives import Lives
from gateway.owner.rules import Owned
from gateway.owner.shared import Alone
from gateway.owner.store import Beat, Life
from gateway.protocol.errors import Unavailable

LEASE: Final = 10.0
KEYS: Final = 2
PAUSES: Final = (0.0, 0.005, 0.03, 0.1, 0.5)
DEEDS: Final = {"go": 70.0, "write": 30.0, "cut": 0.1, "stop": 0.25, "restart": 0.1, "drain": 0.1}


class Lost(Exception):
    """A write of an epoch that was over has reached an application."""


@dataclass
class Row:
    """A life, as the database has it."""

    machine: UUID
    app: str
    beats: int = 0
    lease: float = 0.0
    draining: bool = False
    ended: bool = False


@dataclass
class Base:
    """The database: what `store.py` asks of it, as the rules say it."""

    lives: dict[int, Row] = field(default_factory=dict)
    owned: dict[int, Owned] = field(default_factory=dict)
    epochs: int = 0

    @property
    def alive(self) -> set[int]:
        return {life for life, row in self.lives.items() if not row.ended}

    def begin(self, machine: UUID, app: str) -> int:
        for life in self.alive:
            if self.lives[life].machine == machine:
                if self.lives[life].app == app:
                    return life
                self.lives[life].ended = True
        self.lives[len(self.lives) + 1] = Row(machine, app)
        return len(self.lives)

    def beat(self, life: int | None, draining: bool, lease: float) -> Beat:
        alive = life in self.alive
        seen = {each: (self.lives[each].beats, self.lives[each].lease) for each in self.alive}
        if alive and life is not None:
            self.lives[life].beats += 1
            self.lives[life].lease = max(lease, self.lives[life].lease)
            self.lives[life].draining |= draining
        return Beat(alive, {each: Life(each, beats, "", None, False, held) for each, (beats, held) in seen.items()})

    def end(self, life: int, beats: int | None) -> bool:
        row = self.lives[life]
        if row.ended or row.beats != (row.beats if beats is None else beats):
            return False
        row.ended = True
        return True

    def own(self, key: int, taker: int) -> Owned | None:
        self.epochs += 1
        draining = {life for life, row in self.lives.items() if row.draining}
        owned = rules.own(self.owned.get(key), taker, self.alive, draining, self.epochs)
        if owned is not None:
            self.owned[key] = owned
        return owned

    def owner(self, key: int) -> Owned | None:
        owned = self.owned.get(key)
        return owned if owned is not None and owned.life in self.alive else None

    def give_back(self, key: int, life: int) -> None:
        if key in self.owned and self.owned[key].life == life:
            del self.owned[key]


@coroutine
def hop() -> Generator[None, None, None]:
    """Somewhere between a Machine and the database, until the simulation goes on with it."""
    yield


class Way:
    """A Machine's way to the database, which may be cut. Stands for `Store`."""

    def __init__(self, world: World, lease: float) -> None:
        self.cut_until = 0.0
        self.lease = lease
        self._world = world
        self._base = world.base

    async def ask(self, what: Callable[[], Any]) -> Any:
        await hop()
        if self._world.now < self.cut_until:
            raise Unavailable
        answer = what()
        await hop()
        if self._world.now < self.cut_until:
            raise Unavailable  # carried out, and nobody knows
        return answer

    async def begin(self, machine: UUID, address: str, fly: str | None, app: str) -> Any:
        return await self.ask(lambda: self._base.begin(machine, app))

    async def beat(self, life: int | None, draining: bool) -> Any:
        return await self.ask(lambda: self._base.beat(life, draining, self.lease))

    async def end(self, life: int, beats: int | None = None) -> Any:
        return await self.ask(lambda: self._base.end(life, beats))


class App:
    """The application's process. Stands for `Process`."""

    def __init__(self) -> None:
        self.number = 1
        self.word: str | None = "1"

    async def look(self) -> None:
        return None

    def restart(self) -> None:
        self.number += 1
        self.word = str(self.number)


class Machine:
    """One Machine: its `Lives`, and what it is in the middle of."""

    def __init__(self, world: World, number: int) -> None:
        self.number = number
        self.rate = world.chance.uniform(0.98, 1.02)
        self._ahead = world.chance.uniform(-1e6, 1e6)
        self._world = world
        lease = LEASE * world.chance.choice(world.leases)
        self.way = Way(world, lease)
        self.app = App()
        shared = Alone()
        shared.machine = UUID(int=number)
        self.lives = Lives(self.way, self.app, lease, shared, str, None, self.clock)  # type: ignore[arg-type]
        self.known: dict[int, Owned] = {}
        self.doing: list[Coroutine[Any, Any, None]] = []
        self.writing = Counter[int]()
        self.giving = set[int]()
        self.stopped = 0.0  # until when it stands still
        self._next = 0.0  # when it beats
        self._beat: Coroutine[Any, Any, None] | None = None

    def clock(self) -> float:
        return self._world.now * self.rate + self._ahead

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Will do this, piece by piece."""
        self.doing.append(work)
        self._world.works.append(work)

    def go_on(self) -> None:
        """Does the next piece of something, its beats first."""
        if self._beat not in self.doing and self._world.now >= self._next:
            self._beat = self.lives._step()
            self.begin(self._beat)
        if not self.doing:
            return
        first = self._beat in self.doing and self._world.chance.random() < 0.5
        doing = self._beat if first and self._beat is not None else self._world.chance.choice(self.doing)
        try:
            doing.send(None)
        except (StopIteration, Unavailable):
            self.doing.remove(doing)
            if doing is self._beat:
                self._next = self._world.now + self.lives.lease / rules.LOOKS

    async def write(self, key: int) -> None:
        """As `owner.py` does: asks who owns, and sends the request there."""
        life = self.lives.life
        owned = self.known.get(key)
        if owned is None or owned.life != life:
            if life is None or not self.lives.can_take:
                return
            owned = self.known[key] = await self.way.ask(lambda: self._world.base.own(key, life))
        for machine in self._world.machines:
            if owned is not None and owned.life == machine.lives.life:
                machine.begin(machine.receive(key, owned))

    async def receive(self, key: int, order: Owned) -> None:
        """Makes sure that it is the owner, looks at the belief at the last moment, and writes."""
        while key in self.giving:
            await hop()
        self.writing[key] += 1
        try:
            owned = self.known.get(key)
            if self.lives.draining or owned is None or owned.life != order.life:
                owned = await self.way.ask(lambda: self._world.base.owner(key))
            while self._world.chance.random() < 0.5:
                await hop()  # the body arrives, or the application does not accept yet
            if owned is None or owned.life != order.life:
                return
            if self.lives.holds(owned.life) and self.lives.same_process():
                self._world.written(key, owned, self)
            else:
                self._world.late += 1
        finally:
            self.writing[key] -= 1

    async def drain(self) -> None:
        """Gives away what it owns, each as soon as no write of it is under way; then it ends, without a word."""
        self.lives.shared.drain()
        left = set(range(KEYS))
        while left:
            await hop()
            idle = [key for key in left if not self.writing[key]]
            self.giving.update(idle)  # in the same turn: writes wait from here on
            try:
                for key in idle:
                    life = self.lives.life
                    if life is not None:
                        await self.way.ask(lambda key=key, life=life: self._world.base.give_back(key, life))  # type: ignore[misc]
            finally:
                self.giving.difference_update(idle)
            left.difference_update(idle)
        self._world.machines.remove(self)


class World:
    """Everything. `late`: writes that were refused; `takeovers`: keys that changed hands.

    `leases`: of which each Machine has one, in parts of LEASE, as while a deploy changes it.
    """

    def __init__(self, seed: int, machines: int = 3, leases: Sequence[float] = (1,)) -> None:
        self.chance = random.Random(seed)
        self.leases = leases
        self.now = 0.0
        self.base = Base()
        self.late = 0
        self.takeovers = 0
        self.writes = 0
        self._last: dict[int, tuple[int, int, int]] = {}
        self._count = machines
        self.works: list[Coroutine[Any, Any, None]] = []
        self.machines = [Machine(self, number) for number in range(1, machines + 1)]

    def written(self, key: int, owned: Owned, by: Machine) -> None:
        """An application gets a write."""
        self.writes += 1
        epoch, machine, app = self._last.get(key, (0, 0, 0))
        if owned.epoch < epoch:
            raise Lost(f"of key {key}: epoch {owned.epoch} at Machine {by.number} after {epoch} at {machine}")
        if owned.epoch == epoch and (machine, app) != (by.number, by.app.number):
            raise Lost(f"of key {key}: epoch {epoch} at Machine {by.number} and at {machine}")
        self.takeovers += machine not in (0, by.number)
        self._last[key] = (owned.epoch, by.number, by.app.number)

    def run(self, steps: int) -> None:
        """Goes on for so many steps. Raises Lost."""
        for _ in range(steps):
            self.now += self.chance.choices(PAUSES, (30, 30, 20, 15, 5))[0]
            machine = self.chance.choice(self.machines)
            if self.now < machine.stopped:
                continue
            match self.chance.choices(("go", "write", "cut", "stop", "restart", "drain"), (70, 25, 0.4, 1, 0.3, 0.2))[
                0
            ]:
                case "go":
                    machine.go_on()
                case "write":
                    if len(machine.doing) < 6:
                        machine.begin(machine.write(self.chance.randrange(KEYS)))
                case "cut":
                    machine.way.cut_until = self.now + self.chance.uniform(0.2, 2) * LEASE
                case "stop":
                    machine.stopped = self.now + self.chance.uniform(0.5, 1.7) * LEASE
                case "restart":
                    machine.app.restart()
                case "drain":
                    self._count += 1
                    if not machine.lives.draining:
                        machine.begin(machine.drain())
                        self.machines.append(Machine(self, self._count))

    def close(self) -> None:
        for work in self.works:
            work.close()


def story(world: World, stopped: float, rates: tuple[float, float], *, restart: bool = False) -> None:
    """One Machine owns, and stands still for so many seconds after a beat; another beats on, and writes as soon as it
    may; then the first goes on where it was, right before a write. `restart`: it does not stand still, but its
    application is another process. Raises Lost.
    """
    one, other = world.machines
    one.rate, other.rate = rates

    def whole(work: Coroutine[Any, Any, None], machine: Machine) -> None:
        world.works.append(work)
        before, machine.doing = machine.doing, []
        try:
            while True:
                work.send(None)
                world.now += 0.001
        except (StopIteration, Unavailable):
            pass
        for each in machine.doing:
            whole(each, machine)
        machine.doing = before

    for machine in (one, other, one, other):
        whole(machine.lives._step(), machine)
    whole(one.write(0), one)
    assert world.writes == 1
    began = world.now
    if restart:
        one.app.restart()
        world.base.end(one.lives.life or 0, None)  # by another worker, which has seen it
        whole(other.write(0), other)
    while world.now < began + stopped:
        world.now = min(began + stopped, world.now + LEASE / rules.LOOKS)
        whole(other.lives._step(), other)
        whole(other.write(0), other)
    for _ in range(5):
        whole(one.receive(0, one.known[0]), one)
