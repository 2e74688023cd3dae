"""Each request of a conversation reaches the one Machine that owns it, whichever Machine it comes to."""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.owner.scene import Scene

pytestmark = pytest.mark.asyncio(loop_scope="module")


def new() -> str:
    return f"c-{uuid4().hex[:8]}"


async def test_the_first_write_takes_and_all_others_follow(houses: Scene) -> None:
    a, b = houses.houses
    name = new()
    for house in (a, b, b, a, b):
        assert (await house.say(name)).json()["pid"] == a.pid
    assert [len((await house.http.get(f"/chat/{name}")).json()["messages"]) for house in (a, b)] == [5, 5]


async def test_a_read_of_what_nobody_owns_is_local_and_takes_nothing(houses: Scene) -> None:
    a, b = houses.houses
    name = new()
    for house in (a, b):
        answer = await house.http.get(f"/chat/{name}")
        assert (answer.status_code, answer.json()["pid"]) == (404, house.pid)
    assert (await b.say(name)).json()["pid"] == b.pid
    assert await a.owner(name) == b.pid


async def test_what_lies_below_a_conversation_goes_with_it(houses: Scene) -> None:
    a, b = houses.houses
    name = new()
    await a.say(name, seconds=30)
    assert (await b.http.get(f"/chat/{name}/busy")).status_code == 200
    assert (await b.http.post(f"/chat/{name}/abort")).json()["pid"] == a.pid
