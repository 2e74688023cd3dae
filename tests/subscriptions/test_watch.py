from __future__ import annotations

from collections.abc import Sequence
from unittest.mock import patch

from gateway.subscriptions import watch as watching
from gateway.subscriptions.glob import Glob
from gateway.subscriptions.records import Interest
from gateway.subscriptions.watch import Watch


def interest(version: int, *patterns: str, explicit: frozenset[str] = frozenset()) -> Interest:
    return Interest(version, 1, {"": [Glob(pattern) for pattern in patterns]}, explicit)


def test_without_subscriptions_nothing_is_gathered() -> None:
    watch = Watch()
    assert not watch.notice("a")
    watch.learn(Interest(1, 0, {}, frozenset()))
    assert not watch.notice("a")
    assert watch.take() == []


def test_what_somebody_subscribes_to_is_gathered_once() -> None:
    watch = Watch()
    watch.learn(interest(1, "runs/*", explicit=frozenset({"x"})))
    assert [watch.notice(path) for path in ("runs/1", "runs/1", "x", "y", "runs/1/2")] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert sorted(watch.take()) == ["runs/1", "x"]
    assert watch.take() == []


def test_an_answer_does_not_outlive_what_it_was_given_for() -> None:
    watch = Watch()
    watch.learn(interest(1, "a/*"))
    assert watch.notice("a/1") and not watch.notice("b/1")
    watch.learn(interest(2, "b/*"))
    assert watch.notice("b/1") and not watch.notice("a/1")


def test_appends_are_asked_for_while_there_are_subscriptions() -> None:
    watch, told = Watch(), list[str]()
    watch.begins, watch.ends = lambda: told.append("begins"), lambda: told.append("ends")
    none = Interest(1, 0, {}, frozenset())
    for each in (none, interest(2, "a/*"), interest(3, "b/*"), none, interest(5, "a/*")):
        watch.learn(each)
    assert told == ["begins", "ends", "begins"]


def test_too_many_explicit_paths_make_all_appends_count() -> None:
    watch = Watch()
    watch.learn(Interest(1, 1, {}, frozenset(), crowded=frozenset({"acme"})))
    assert watch.notice("acme\x1fwhatever")
    assert not watch.notice("whatever") and not watch.notice("other\x1fwhatever")


def test_memory_is_bounded() -> None:
    watch = Watch()
    watch.learn(interest(1, "**"))
    for number in range(watching._MOST_REMEMBERED + 10):
        watch.notice(f"runs/{number}")
    assert len(watch._answers) <= watching._MOST_REMEMBERED
    assert len(watch.take()) == watching._MOST_GATHERED
    assert watch.overflowed


def test_patterns_that_take_long_may_concern_any_path() -> None:
    """Counted, not timed: between two looks, comparing takes so many steps and no more."""
    watch = Watch()
    hostile = "/".join(["**", *["a"] * 250])
    watch.learn(interest(1, *(f"{hostile}/b{n}" for n in range(1_000)), "runs/*"))
    steps = 0
    search = Glob.search

    def counted(glob: Glob, parts: Sequence[str], most: int) -> tuple[bool, int]:
        nonlocal steps
        found, taken = search(glob, parts, most)
        steps += taken
        return found, taken

    with patch.object(Glob, "search", counted):
        for n in range(100):
            assert watch.notice("a/" * 490 + f"c{n}"), "the database tells"
        assert steps <= watching.MOST_STEPS + 1
        assert len(watch.take()) == 100
        assert watch.notice("a/" * 490 + "c") and steps <= 2 * (watching.MOST_STEPS + 1)
        watch.take()
    watch.learn(interest(2, "runs/*"))
    assert not watch.notice("a/" * 490 + "c"), "nothing of that is remembered"


def test_another_tenants_patterns_are_not_looked_at() -> None:
    watch = Watch()
    watch.learn(Interest(1, 1, {"acme": [Glob("**", "acme")]}, frozenset()))
    assert watch.notice("acme\x1fruns/1") and not watch.notice("runs/1")
