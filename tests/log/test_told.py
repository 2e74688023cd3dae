"""What a replica may lack, by what a Machine was told: forgotten only when the replica has proved that it has it."""

from __future__ import annotations

import pytest

from gateway.log import told as module
from gateway.log.told import Told
from gateway.protocol.batch import News, Stream

RUN = "runs/a"


def shown(tail: int = 0, *, closed: bool = False, id: int = 1, path: str = RUN) -> Stream:
    """A stream as the replica shows it."""
    return Stream(id, path, "application/json", tail, closed)


def test_nothing_told_is_nothing_lacked() -> None:
    told = Told()
    assert told.nothing
    assert not told.lacks(shown()) and not told.lacks_record(RUN, 1, False) and not told.lacks_list("")


def test_a_tail_that_was_told_has_to_be_there() -> None:
    told = Told()
    told.news(News(RUN, 1, 3))
    assert told.lacks(shown(2)) and not told.lacks(shown(3)) and not told.lacks(shown(4))
    told.news(News(RUN, 3, 2))  # an older one that comes late
    assert told.lacks(shown(2))
    assert not told.lacks_record(RUN, 1, False), "a record tells of no events"
    assert not told.lacks_list("")


def test_an_end_that_was_told_has_to_be_there() -> None:
    told = Told()
    told.news(News(RUN, 4, 3, closed=True))
    assert told.lacks(shown(3)) and not told.lacks(shown(3, closed=True))
    assert told.lacks_record(RUN, 1, False) and not told.lacks_record(RUN, 1, True)
    assert told.lacks_list("") and not told.lacks_list("other")


@pytest.mark.parametrize("news", [News(RUN, 0, 0, deleted=True), News(RUN, 0, 0), News(RUN, 0, -1)])
def test_of_another_stream_at_its_path_nothing_is_known(news: News) -> None:
    told = Told()
    told.news(news)
    assert told.lacks(shown(9, closed=True)) and told.lacks_record(RUN, 9, True) and told.lacks_list("")
    assert told.deleted == {RUN}
    assert not told.lacks(shown(path="runs/b"))


def test_what_was_made_here_has_to_be_there() -> None:
    told = Told()
    told.made("acme\x1fruns/a")
    assert told.lacks(shown(path="acme\x1fruns/a")) and told.lacks_list("acme") and not told.lacks_list("")


def test_a_stream_that_was_shown_is_not_an_earlier_one() -> None:
    told = Told()
    told.seen(RUN, 2, False, 7)
    assert told.lacks(shown(9, closed=True, id=6)) and told.lacks(shown(1, id=7))
    assert not told.lacks(shown(2, id=7)) and not told.lacks(shown(0, id=8)), "a later one counts anew"
    assert told.lacks_record(RUN, 6, True) and not told.lacks_record(RUN, 7, False)


def test_a_run_that_was_asked_to_stop_says_so_in_its_record() -> None:
    told = Told()
    told.news(News(f"{RUN}/control", 1, 1))
    assert told.lacks_record(RUN, 1, False) and told.lacks_list("") and not told.lacks(shown())


def test_only_what_was_told_before_a_look_is_proved_by_it() -> None:
    told = Told()
    told.news(News(RUN, 1, 3))
    told.turn()
    told.news(News(RUN, 4, 5))
    told.proved()
    assert told.lacks(shown(4)), "it came after the look"
    told.turn()
    told.turn()  # a look that failed is made again
    assert told.lacks(shown(4))
    told.proved()
    assert not told.lacks(shown(0)) and told.nothing


def test_in_doubt_all_is_read_at_the_primary() -> None:
    told = Told()
    told.doubt()
    assert told.lacks(shown(9, closed=True)) and told.lacks_record(RUN, 1, True) and told.lacks_list("")
    told.turn()
    assert told.lacks(shown(9, closed=True))
    told.proved()
    assert not told.lacks(shown(9))


def test_of_too_many_streams_only_those_that_are_closed_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    told = Told()
    for run in ("a", "b", "c"):
        told.news(News(f"runs/{run}", 1, 1))
    told.news(News("runs/d", 1, 1, closed=True))
    assert told.lacks(shown(9, path="runs/x")), "it may be the one that is not remembered"
    assert not told.lacks(shown(9, path="runs/x", closed=True))
    assert told.lacks(shown(1, path="runs/d", closed=True)), "it ended, and how is not remembered"
    told.turn()
    assert told.lacks(shown(9, path="runs/x"))
    for run in ("e", "f", "g"):
        told.news(News(f"runs/{run}", 0, 0, deleted=True))
    assert told.lacks(shown(9, path="runs/x", closed=True))
    told.proved()
    told.turn()
    told.proved()
    assert not told.lacks(shown(9, path="runs/x"))


def test_too_many_tenants_are_no_ones_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    told = Told()
    for tenant in ("a", "b", "c"):
        told.made(f"{tenant}\x1fruns/1")
    assert told.lacks_list("d")
