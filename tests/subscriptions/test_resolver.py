"""Names that are looked up in threads: few, some for each tenant, and for a limited time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence

import pytest

from gateway.subscriptions import resolver
from gateway.subscriptions.resolver import Resolver, Unresolved
from tests.subscriptions.tools import eventually


class Names:
    """A system's resolver: it says nothing of names that begin with `silent` until it is let go."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.now = 0.0
        self.release = threading.Event()

    def look_up(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if host.startswith("silent"):
            self.release.wait(30)
        if host.startswith(("silent", "nowhere")):
            raise OSError("no such host")
        return ["192.0.2.7"]


@pytest.fixture
def names() -> Iterator[Names]:
    names = Names()
    yield names
    names.release.set()


async def test_silent_names_of_a_tenant_hold_up_no_other_tenant(names: Names) -> None:
    resolver = Resolver(names.look_up, timeout=60)
    silent = [asyncio.create_task(resolver.resolve("mallory", f"silent{n}.example")) for n in range(40)]
    await eventually(lambda: resolver.under_way == {"mallory": 4})
    for number in range(20):
        assert await resolver.resolve("bob", f"worker{number}.example") == ["192.0.2.7"]
    assert resolver.under_way == {"mallory": 4}
    names.release.set()
    assert all(isinstance(end, Unresolved) for end in await asyncio.gather(*silent, return_exceptions=True))
    assert len(names.asked) == 60
    assert resolver.under_way == {} and not resolver._waiting


async def test_there_are_so_many_threads_and_no_more(names: Names) -> None:
    resolver = Resolver(names.look_up, timeout=60)
    silent = [asyncio.create_task(resolver.resolve(f"t{n // 4}", f"silent{n}.example")) for n in range(40)]
    await eventually(lambda: sum(resolver.under_way.values()) == 16)
    assert sum(thread.name == "name of a webhook" for thread in threading.enumerate()) == 16
    names.release.set()
    await asyncio.gather(*silent, return_exceptions=True)
    assert len(names.asked) == 40, "each had its turn"


async def test_a_silent_name_is_given_up_and_keeps_its_thread(names: Names) -> None:
    resolver = Resolver(names.look_up, timeout=0.01)
    for number in range(6):
        with pytest.raises(Unresolved):
            await resolver.resolve("mallory", f"silent{number}.example")
    assert resolver.under_way == {"mallory": 4}
    assert len(resolver._failed) == 4, "of a name that had no turn nothing is known"
    names.release.set()
    await eventually(lambda: resolver.under_way == {})


async def test_a_name_that_failed_is_not_asked_for_again_for_a_while(names: Names) -> None:
    resolver = Resolver(names.look_up, clock=lambda: names.now)
    for _ in range(3):
        with pytest.raises(Unresolved):
            await resolver.resolve("bob", "nowhere.example")
    assert names.asked == ["nowhere.example"]
    names.now = 31.0
    with pytest.raises(Unresolved):
        await resolver.resolve("bob", "nowhere.example")
    assert names.asked == ["nowhere.example"] * 2


async def test_names_that_failed_are_remembered_up_to_a_number(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "MOST_REMEMBERED", 10)
    own = Resolver(names.look_up)
    for number in range(30):
        with pytest.raises(Unresolved):
            await own.resolve("bob", f"nowhere{number}.example")
    assert list(own._failed) == [f"nowhere{number}.example" for number in range(20, 30)]


async def test_an_address_needs_no_thread(names: Names) -> None:
    resolver = Resolver(names.look_up)
    assert await resolver.resolve("bob", "127.0.0.1") == ["127.0.0.1"]
    assert names.asked == []


async def test_a_failure_is_no_address_whatever_it_is(names: Names) -> None:
    resolver = Resolver(lambda host: [host.encode("idna").decode()])
    with pytest.raises(Unresolved):
        await resolver.resolve("bob", f"{'a' * 70}.example")


async def test_this_hosts_own_name_is_found() -> None:
    assert {"127.0.0.1", "::1"} & set(await Resolver().resolve("", "localhost"))
