"""What a reader of a live list was told: snapshots of transactions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol import base64url
from gateway.protocol.changes import KEPT, Snapshot, Standing, digest, parse_standing, standing_of

OF = digest(["status=active"])


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    end = draw(st.one_of(st.integers(3, 60), st.integers(2**40, 2**62)))
    running = draw(st.frozensets(st.integers(max(0, end - 50), end - 1), max_size=10))
    return Snapshot(end, running)


@given(snapshots())
def test_a_snapshot_is_read_as_postgres_writes_it(snapshot: Snapshot) -> None:
    assert Snapshot.of(str(snapshot)) == snapshot
    first, end, running = str(snapshot).split(":")
    assert int(first) == min(snapshot.running, default=snapshot.end) and int(end) == snapshot.end
    assert len(running.split(",")) == max(1, len(snapshot.running))


@given(snapshots(), snapshots())
def test_one_includes_another_if_it_sees_as_much(one: Snapshot, other: Snapshot) -> None:
    near = range(max(0, min(one.end, other.end) - 60), min(max(one.end, other.end), min(one.end, other.end) + 60) + 2)
    as_much = all(one.sees(transaction) for transaction in near if other.sees(transaction))
    assert one.includes(other) == (as_much and one.end >= other.end - 0)


@given(snapshots(), snapshots() | st.none(), st.integers(0, 2**40), st.integers(0, 2**40), st.integers(1, 2**60))
def test_what_was_told_is_read_again(base: Snapshot, upto: Snapshot | None, epoch: int, at: int, stream: int) -> None:
    standing = Standing(epoch, at, base, upto, stream if upto else 0)
    text = standing.to_bytes(OF)
    assert parse_standing(text, OF) == standing
    assert parse_standing(text, digest([])) is None, "of another list"


@given(st.binary(max_size=40))
def test_any_other_text_is_refused_or_means_something(text: bytes) -> None:
    for each in (text, base64url.encode(OF + text).encode()):
        standing = parse_standing(each, OF)
        assert standing is None or parse_standing(standing.to_bytes(OF), OF) == standing


def test_an_id_is_small_also_on_a_busy_server() -> None:
    assert len(Standing(0, 1_800_000_000, Snapshot(2_000_000_000)).to_bytes(OF)) <= 24
    running = frozenset(range(2_000_000_000 - 200, 2_000_000_000, 2))
    assert len(Standing(0, 1_800_000_000, Snapshot(2_000_000_000, running)).to_bytes(OF)) < 170


def test_it_is_good_for_an_hour_and_in_its_epoch() -> None:
    standing = Standing(1, 10_000, Snapshot(5))
    assert standing.is_good(1, 10_000 + KEPT - 1) and standing.is_good(1, 9_990)
    assert not standing.is_good(1, 10_000 + KEPT) and not standing.is_good(2, 10_001)
    assert not standing.is_good(1, 10_000 - KEPT - 1), "the clock was set back by more"


def test_a_change_is_known_of_streams_that_were_told() -> None:
    standing = Standing(0, 0, Snapshot(10, frozenset({7})), Snapshot(20, frozenset()), 100)
    known = {
        (stream, transaction): standing.knows(stream, transaction)
        for stream in (100, 101)
        for transaction in (6, 7, 15, 20)
    }
    assert [which for which, yes in known.items() if yes] == [(100, 6), (100, 7), (100, 15), (101, 6)]
    assert not Standing(0, 0, Snapshot(10, frozenset({7}))).knows(1, 7)


def test_a_snapshot_of_transactions_below_zero_is_none() -> None:
    assert standing_of([0, 0, 5, 1, 6]) is None
