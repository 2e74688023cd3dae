"""Who takes what a dead Machine has left, and how often an app is woken for it; time is moved, not waited for."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from gateway.owner.flue.recovery import LONG, Recovery, mounts_of
from gateway.owner.flue.submissions import Stranded
from gateway.owner.rows import Key, Row

ROW = Row("/agents/chat/{id}", "/agents/chat/{id}")


@dataclass
class World:
    """`left` is what nobody works on; `others` owns some of it."""

    left: list[Stranded] = field(default_factory=list)
    others: set[bytes] = field(default_factory=set)
    taken: list[bytes] = field(default_factory=list)
    now: float = 100.0
    woken: list[float] = field(default_factory=list)

    async def find(self) -> list[Stranded]:
        return self.left

    async def take(self, key: Key) -> bool:
        self.taken.append(key.id)
        return key.id not in self.others

    async def wake(self) -> None:
        self.woken.append(self.now)

    def recovery(self) -> Recovery:
        return Recovery(self.find, lambda _, name: [Key.of(ROW, name)], self.take, self.wake, lambda: self.now)


async def test_what_nobody_works_on_is_taken_and_the_app_woken() -> None:
    world = World([Stranded("Chat", "é", 1.0)])
    await world.recovery().look()
    assert (world.taken, world.woken) == (["é".encode()], [100.0])


async def test_an_app_is_not_woken_for_what_another_machine_owns() -> None:
    world = World([Stranded("Chat", "c1", 1.0)], others={b"c1"})
    await world.recovery().look()
    assert world.woken == []


async def test_an_app_is_woken_more_and_more_seldom_for_the_same() -> None:
    world = World([Stranded("Chat", "c1", 1.0)])
    recovery = world.recovery()
    for _ in range(60):
        await recovery.look()
        world.now += 1
    assert [at - 100 for at in world.woken] == [0, 2, 6, 14, 29, 44, 59]


async def test_it_is_woken_at_once_for_what_is_new() -> None:
    world = World([Stranded("Chat", "c1", 1.0)])
    recovery = world.recovery()
    await recovery.look()
    world.left.append(Stranded("Chat", "c2", 0.5))
    world.now += 1
    await recovery.look()
    world.left.clear()
    await recovery.look()
    world.left.append(Stranded("Chat", "c1", 0.5))
    await recovery.look()
    assert world.woken == [100, 101, 101]


async def test_only_what_was_left_for_long_is_counted() -> None:
    world = World([Stranded("Chat", "c1", LONG + 1), Stranded("Chat", "c2", LONG - 1)], others={b"c1"})
    recovery = world.recovery()
    await recovery.look()
    assert recovery.late == 1
    world.left.clear()
    await recovery.look()
    assert recovery.late == 0


@pytest.mark.parametrize(
    ("agent", "found"),
    [
        ("Chat", ["/agents/chat"]),
        ("IssueTriage", ["/v1/issue-triage"]),
        ("issue-triage", ["/v1/issue-triage"]),
        ("Translator", ["/agents/chat", "/v1/issue-triage"]),
    ],
)
def test_an_agent_is_looked_for_where_its_name_stands(agent: str, found: list[str]) -> None:
    assert list(mounts_of(agent, ["/agents/chat", "/v1/issue-triage"])) == found
