"""Watermarks: what a replica may lack is forgotten only when the replica has proved that it has it."""

from __future__ import annotations

import pytest

from gateway.log import watermarks as module
from gateway.log.watermarks import Watermarks
from gateway.protocol.batch import News, Stream

RUN = "runs/a"


def shown(tail: int = 0, *, closed: bool = False, id: int = 1, path: str = RUN) -> Stream:
    """A stream as the replica shows it."""
    return Stream(id, path, "application/json", tail, closed)


def test_nothing_told_is_nothing_lacked() -> None:
    marks = Watermarks()
    assert marks.none
    assert not marks.exceed(shown()) and not marks.exceed_record(RUN, 1, False) and not marks.exceed_list("")


def test_a_tail_that_was_told_has_to_be_there() -> None:
    marks = Watermarks()
    marks.news(News(RUN, 1, 3))
    assert marks.exceed(shown(2)) and not marks.exceed(shown(3)) and not marks.exceed(shown(4))
    marks.news(News(RUN, 3, 2))  # an older one that comes late
    assert marks.exceed(shown(2))
    assert not marks.exceed_record(RUN, 1, False), "a record tells of no events"
    assert not marks.exceed_list("")


def test_an_end_that_was_told_has_to_be_there() -> None:
    marks = Watermarks()
    marks.news(News(RUN, 4, 3, closed=True))
    assert marks.exceed(shown(3)) and not marks.exceed(shown(3, closed=True))
    assert marks.exceed_record(RUN, 1, False) and not marks.exceed_record(RUN, 1, True)
    assert marks.exceed_list("") and not marks.exceed_list("other")


@pytest.mark.parametrize("news", [News(RUN, 0, 0, deleted=True), News(RUN, 0, 0), News(RUN, 0, -1)])
def test_of_another_stream_at_its_path_nothing_is_known(news: News) -> None:
    marks = Watermarks()
    marks.news(news)
    assert marks.exceed(shown(9, closed=True)) and marks.exceed_record(RUN, 9, True) and marks.exceed_list("")
    assert marks.deleted == {RUN}
    assert not marks.exceed(shown(path="runs/b"))


def test_what_was_made_here_has_to_be_there() -> None:
    marks = Watermarks()
    marks.made("acme\x1fruns/a")
    assert marks.exceed(shown(path="acme\x1fruns/a")) and marks.exceed_list("acme") and not marks.exceed_list("")


def test_a_stream_that_was_shown_is_not_an_earlier_one() -> None:
    marks = Watermarks()
    marks.seen(RUN, 2, False, 7)
    assert marks.exceed(shown(9, closed=True, id=6)) and marks.exceed(shown(1, id=7))
    assert not marks.exceed(shown(2, id=7)) and not marks.exceed(shown(0, id=8)), "a later one counts anew"
    assert marks.exceed_record(RUN, 6, True) and not marks.exceed_record(RUN, 7, False)


def test_a_run_that_was_asked_to_stop_says_so_in_its_record() -> None:
    marks = Watermarks()
    marks.news(News(f"{RUN}/control", 1, 1))
    assert marks.exceed_record(RUN, 1, False) and marks.exceed_list("") and not marks.exceed(shown())


def test_only_what_was_told_before_a_look_is_proved_by_it() -> None:
    marks = Watermarks()
    marks.news(News(RUN, 1, 3))
    marks.turn()
    marks.news(News(RUN, 4, 5))
    marks.proved()
    assert marks.exceed(shown(4)), "it came after the look"
    marks.turn()
    marks.turn()  # a look that failed is made again
    assert marks.exceed(shown(4))
    marks.proved()
    assert not marks.exceed(shown(0)) and marks.none


def test_in_doubt_all_is_read_at_the_primary() -> None:
    marks = Watermarks()
    marks.doubt()
    assert marks.exceed(shown(9, closed=True)) and marks.exceed_record(RUN, 1, True) and marks.exceed_list("")
    marks.turn()
    assert marks.exceed(shown(9, closed=True))
    marks.proved()
    assert not marks.exceed(shown(9))


def test_of_too_many_streams_only_those_that_are_closed_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    marks = Watermarks()
    for run in ("a", "b", "c"):
        marks.news(News(f"runs/{run}", 1, 1))
    marks.news(News("runs/d", 1, 1, closed=True))
    assert marks.exceed(shown(9, path="runs/x")), "it may be the one that is not remembered"
    assert not marks.exceed(shown(9, path="runs/x", closed=True))
    assert marks.exceed(shown(1, path="runs/d", closed=True)), "it ended, and how is not remembered"
    marks.turn()
    assert marks.exceed(shown(9, path="runs/x"))
    for run in ("e", "f", "g"):
        marks.news(News(f"runs/{run}", 0, 0, deleted=True))
    assert marks.exceed(shown(9, path="runs/x", closed=True))
    marks.proved()
    marks.turn()
    marks.proved()
    assert not marks.exceed(shown(9, path="runs/x"))


def test_too_many_tenants_are_no_ones_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    marks = Watermarks()
    for tenant in ("a", "b", "c"):
        marks.made(f"{tenant}\x1fruns/1")
    assert marks.exceed_list("d")
