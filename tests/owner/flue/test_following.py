"""Conversations go to the Machine that runs them: what is taken, and what is passed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.owner.flue.following import Following
from gateway.owner.flue.processes import Running
from gateway.owner.rows import Key, Row
from gateway.owner.rules import Owned

ROW = Row("/agents/chat/{id}", "/agents/chat/{id}")
SELF, OTHER, THIRD = 1, 2, 3


def key(id: bytes) -> Key:
    return Key.of(ROW, id)


@dataclass
class World:
    """`owned` is who owns what; the other two are what was asked for."""

    owned: dict[bytes, Owned] = field(default_factory=dict)
    taken: list[bytes] = field(default_factory=list)
    passed: list[tuple[bytes, int]] = field(default_factory=list)
    doubted: list[bytes] = field(default_factory=list)
    asked: int = 0

    async def owners(self, keys: Sequence[Key]) -> Mapping[bytes, Owned]:
        self.asked += 1
        return self.owned

    async def take(self, key: Key) -> bool:
        self.taken.append(key.id)
        return True

    async def pass_on(self, key: Key, to: int) -> bool:
        self.passed.append((key.id, to))
        return True

    def doubt(self, key: Key) -> None:
        self.doubted.append(key.id)

    async def look(self, *running: Running) -> Following:
        async def runs() -> list[Running]:
            return list(running)

        following = Following(runs, lambda _, name: [key(name)], self)
        await following.look(SELF)
        return following


async def test_what_runs_here_and_is_nobodys_is_taken() -> None:
    world = World()
    await world.look(Running("Chat", "mine", SELF), Running("Chat", "not mine", OTHER))
    assert (world.taken, world.passed) == ([b"mine"], [])


async def test_what_is_owned_here_and_runs_elsewhere_is_passed_on() -> None:
    world = World({key(b"away").digest: Owned(SELF, 1), key(b"here").digest: Owned(SELF, 2)})
    following = await world.look(Running("Chat", "away", OTHER), Running("Chat", "here", SELF))
    assert (world.taken, world.passed, following.passed) == ([], [(b"away", OTHER)], 1)


async def test_what_another_machine_owns_is_its_own_to_pass_on() -> None:
    world = World({key(b"a").digest: Owned(OTHER, 1)})
    await world.look(Running("Chat", "a", SELF))
    assert (world.taken, world.passed, world.doubted) == ([], [], [])
    await world.look(Running("Chat", "a", THIRD))
    assert (world.taken, world.passed, world.doubted) == ([], [], [b"a"])


async def test_nobody_is_asked_where_nothing_runs() -> None:
    world = World()
    await world.look()
    assert world.asked == 0
