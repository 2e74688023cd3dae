"""Subscribers of commits can hurt neither each other nor whoever tells them."""

from __future__ import annotations

import logging

import pytest

from gateway.feed import Feed
from gateway.outage import SELDOM, SeldomLogger
from gateway.protocol.batch import News
from gateway.protocol.offset import join

NEWS = News("runs/1", 1, 1, body=b"1")


@pytest.mark.parametrize("broken", range(3))
def test_a_subscriber_that_raises_keeps_no_other_from_hearing(broken: int) -> None:
    feed, heard = Feed(), list[int]()

    def subscriber(number: int) -> None:
        def hear(news: News) -> None:
            heard.append(number)
            if number == broken:
                raise RuntimeError("a subscriber's fault")

        feed.committed.subscribe(hear)

    for number in range(3):
        subscriber(number)
    feed.committed(NEWS)
    feed.committed(NEWS)
    assert heard == [0, 1, 2, 0, 1, 2], "the one that raised is told of the next change too"
    heard.clear()
    feed.committed.each([NEWS, NEWS])
    assert heard == [0, 0, 1, 1, 2, 2]


def test_turns_are_a_first_event_a_close_and_a_deletion() -> None:
    feed, heard = Feed(), list[News]()
    feed.heard.turns.subscribe(heard.append)
    turns = [NEWS, News("a", 5, 5, closed=True), News("b", 0, 0, deleted=True), News("c", 1, 0)]
    feed.heard.each([News("a", 2, 4, body=b"2"), *turns])
    feed.heard(News("a", 2, 2))
    assert heard == turns


def test_a_first_event_is_one_in_any_epoch_of_the_log() -> None:
    feed, heard = Feed(), list[News]()
    feed.committed.turns.subscribe(heard.append)
    first = News("a", join(3, 1), join(3, 2))
    feed.committed.each([first, News("a", join(3, 3), join(3, 3))])
    assert heard == [first]


def test_a_cancel_behind_other_messages_is_a_turn() -> None:
    feed, heard = Feed(), list[News]()
    feed.committed.turns.subscribe(heard.append)
    cancel = News("runs/1/control", 2, 2, body=b'{"type":"cancel"}')
    feed.committed(cancel)
    assert heard == [cancel]


def test_who_has_unsubscribed_hears_no_more() -> None:
    feed, heard, others = Feed(), list[News](), list[News]()
    feed.committed.subscribe(heard.append, others.append)
    feed.committed.unsubscribe(heard.append)
    feed.committed(NEWS)
    assert (heard, others) == ([], [NEWS])


def test_each_channel_has_its_own_subscribers() -> None:
    feed, heard = Feed(), list[object]()
    feed.committed.subscribe(lambda news: heard.append(news))
    feed.created.subscribe(lambda path, tail: heard.append((path, tail)))
    feed.missed.subscribe(lambda: heard.append("missed"))
    feed.heard(NEWS)
    feed.doubted(["runs/1"])
    feed.created("runs/2", 0)
    feed.missed()
    assert heard == [("runs/2", 0), "missed"]


def test_what_a_commit_holds_is_not_written_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def hear(news: News) -> None:
        raise RuntimeError("a subscriber's fault")

    feed = Feed()
    feed.committed.subscribe(hear)
    feed.committed(News("runs/1", 1, 1, body=b"a secret"))
    assert "failed; the commit stands" in caplog.text
    assert "a secret" not in caplog.text


def test_exceptions_of_one_kind_are_logged_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    seldom = SeldomLogger(logging.getLogger("test"), lambda: now)

    def fail(message: str) -> None:
        try:
            raise RuntimeError("a fault")
        except RuntimeError:
            seldom.exception(message)

    for _ in range(1000):
        fail("A reader failed.")
    fail("Another kind.")
    now += SELDOM
    fail("A reader failed.")
    assert caplog.messages == [
        "A reader failed.",
        "Another kind.",
        "A reader failed. (999 more since the last such line.)",
    ]
    assert all(record.exc_info for record in caplog.records)
    assert seldom.count == 1002
