"""What a tail remembers, and from which positions it can be read."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fanout.tail import RING_BYTES, Tail
from gateway.protocol.batch import Batch, Encoding, News, Stream, after


def tail_of(type: str = "application/json", *, ttl: int | None = None, at: int = 0) -> Tail:
    tail = Tail("s", 0)
    tail.take(Stream(1, "s", type, at, False, ttl))
    tail.position = at
    return tail


def batch_of(events: list[bytes], start: int, *, separator: bytes = b",", lengths: bool = True) -> Batch:
    known = [len(event) for event in events] if lengths else None
    return Batch(start, start + len(events), separator.join(events), True, False, known)


@pytest.mark.parametrize(("type", "separator"), [("application/json", b","), ("text/plain", b"")])
def test_a_reader_may_stand_anywhere_in_what_is_remembered(type: str, separator: bytes) -> None:
    chance = random.Random(type)
    tail = tail_of(type, at=7)
    events: list[bytes] = []
    while len(events) < 40:
        new = [b"%d" % chance.randrange(10 ** chance.randint(1, 8)) for _ in range(chance.randint(1, 5))]
        tail.publish(batch_of(new, 7 + len(events), separator=separator), 1, 0)
        events += new
    for position in range(len(events) + 1):
        batch = tail.since(7 + position)
        assert batch is not None
        assert (batch.start, batch.end, batch.up_to_date) == (7 + position, 7 + len(events), True)
        assert batch.body == separator.join(events[position:])


@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from((1, 100, 9_000, 40_000, 70_000)), min_size=1, max_size=9), st.booleans()),
        min_size=1,
        max_size=9,
    )
)
def test_whatever_is_forgotten_what_is_given_has_no_gap(pages: list[tuple[list[int], bool]]) -> None:
    tail, events = tail_of(), list[bytes]()
    for sizes, lengths in pages:
        new = [b"%d" % (len(events) + n) * size for n, size in enumerate(sizes)]
        tail.publish(batch_of(new, len(events), lengths=lengths), 1, 0)
        events += new
        for position in range(len(events) + 1):
            batch = tail.since(position)
            assert batch is None or batch == Batch(
                position, len(events), b",".join(events[position:]), True, False, batch.lengths
            )


def test_what_is_before_or_after_it_is_for_the_log_to_say() -> None:
    tail = tail_of(at=5)
    tail.publish(batch_of([b"1", b"2"], 5), 1, 0)
    assert tail.since(4) is None
    assert tail.since(8) is None


def test_without_boundaries_only_whole_pieces_are_given() -> None:
    tail = tail_of()
    tail.publish(batch_of([b"1", b"2"], 0, lengths=False), 1, 0)
    assert tail.since(1) is None
    assert tail.since(0) == Batch(0, 2, b"1,2", True, False)


def test_of_a_large_page_the_end_is_remembered() -> None:
    tail = tail_of()
    events = [b"%05d" % n + b"x" * 1000 for n in range(100)]
    tail.publish(batch_of(events, 0), 1, 0)
    assert 60 <= 100 - tail.ring[0].start <= RING_BYTES // 1005
    assert tail.ring_bytes == len(tail.ring[0].body) <= RING_BYTES
    batch = tail.since(80)
    assert batch is not None
    assert batch.body == b",".join(events[80:])


def test_memory_is_bounded_whatever_comes() -> None:
    chance = random.Random(3)
    tail = tail_of()
    for _ in range(500):
        assert tail.position is not None
        size = chance.choice((1, 300, 5_000, 100_000))
        tail.publish(Batch(tail.position, tail.position + 1, b"x" * size, True, False), 1, 0)
        assert tail.ring_bytes == sum(len(batch.body) for batch in tail.ring) <= RING_BYTES


def test_a_tail_that_is_behind_is_not_up_to_date_for_newcomers() -> None:
    tail = tail_of()
    tail.publish(batch_of([b"1", b"2"], 0), 1, 0)
    tail.wanted = 3
    for position in (0, 1, 2):
        page = tail.remembered(position)
        assert page is not None
        assert not page.batch.up_to_date


def test_memory_is_silent_where_a_read_of_the_log_means_more() -> None:
    with_ttl, dropped, unread = tail_of(ttl=60), tail_of(), Tail("s", 0)
    dropped.finish()
    assert [tail.remembered(0) for tail in (with_ttl, dropped, unread)] == [None, None, None]
    assert tail_of().remembered(0) is not None


def test_early_news_is_taken_in_order_without_repeats() -> None:
    tail = tail_of()
    for first, last in ((1, 2), (3, 3), (4, 5), (7, 7)):
        tail.expect(News("s", first, last, body=b"x"))
    tail.position = 2
    assert tail.due() == News("s", 3, 3, body=b"x")
    tail.position = 3
    assert tail.due() == News("s", 4, 5, body=b"x")
    tail.position = 5
    assert tail.due() is None, "6 is missing"
    assert tail.wanted == 7


def test_news_that_came_early_takes_little_memory() -> None:
    tail = tail_of()
    for n in range(1000):
        tail.expect(News("s", n + 1, n + 1, body=b"x" * 2000))
    tail.expect(News("s", 1001, 1001, body=b"x" * 100_000))
    assert sum(len(news.body or b"") for news in tail.early) <= RING_BYTES
    assert tail.wanted == 1001


def test_the_last_piece_of_a_closed_stream_says_so() -> None:
    tail = tail_of()
    tail.publish(batch_of([b"1", b"2"], 0), 1, 0)
    tail.publish(Batch(2, 2, b"", True, True), 1, 0)
    for position, body in ((0, b"1,2"), (1, b"2"), (2, b"")):
        assert tail.since(position) == Batch(position, 2, body, True, True)


def test_what_is_left_of_a_batch_can_be_cut_again() -> None:
    rest = after(Encoding.JSON, batch_of([b"1", b"22", b"333"], 0), 1)
    assert rest is not None
    assert after(Encoding.JSON, rest, 2) == Batch(2, 3, b"333", True, False)
    assert after(Encoding.JSON, rest, 0) is None
    assert after(Encoding.JSON, rest, 4) is None
