from __future__ import annotations

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
