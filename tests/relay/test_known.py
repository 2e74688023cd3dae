"""Frames that an upstream sends again are known again, and a gap or another answer is seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.relay.known import Known, Last, NotTheSame


def known(frames: list[bytes], last: str) -> Known:
    found = Known("sse", Last.parse(last))
    for frame in frames:
        found.add(frame)
    return found


def named(*ids: str) -> list[bytes]:
    """Frames with these ids."""
    return [f"id: {id}\ndata: {n}\n\n".encode() for n, id in enumerate(ids)]


@pytest.mark.parametrize(
    ("last", "frames", "name"),
    [
        ("id", named("a", "b", "c"), "b"),
        ("id", named("a", "b", "b"), "a"),  # the upstream may leave out all that it calls b
        ("id", named("a"), None),
        ("id", [*named("a"), b"data: without\n\n"], "a"),
        ("id", [b"data: 1\n\n"] * 3, None),
        ("id", [], None),
        ("frames", [b"data: 1\n\n", b"event: x\n\n", b"data: 2\n\n", b"data: 3\n\n"], "2"),
        ("frames", [b"data: 1\n\n"] * 3, None),  # one that has begun at its start would not be noticed
        ("frame:n", [b'data: {"n":%d}\n\n' % n for n in range(4, 7)], "5"),
        ("frame:n", [rb'data: {"n":%d,"delta":"\ud83d"}' % n + b"\n\n" for n in range(4, 7)], "5"),
        ("frame:n", [b"data: [DONE]\n\n", b"data: x\n\n"], None),
    ],
)
def test_the_upstream_is_asked_for_some_frame_again(last: str, frames: list[bytes], name: str | None) -> None:
    said, overlap = known(frames, last).begin()
    assert said == name
    assert overlap.over is (not frames)


def test_a_number_is_the_frame_whatever_else_is_in_it() -> None:
    _, overlap = known([b'data: {"n":1}\n\n', b'data: {"n":2,"pad":"x"}\n\n'], "frame:n").begin()
    overlap.take(b'data: {"n":2,"pad":"yy"}\n\n')
    assert overlap.over


def test_an_id_with_other_data_is_another_answer() -> None:
    _, overlap = known(named("1", "2", "3"), "id").begin()
    with pytest.raises(NotTheSame):
        overlap.take(b"id: 3\ndata: other\n\n")


@given(st.data())
def test_what_comes_again_is_known_or_refused(data: st.DataObject) -> None:
    """From wherever the upstream begins: either nothing is lost or twice, or it is refused."""
    texts = data.draw(st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=8))
    ids = data.draw(st.booleans())
    frames = [(b"id: %d\n" % n if ids else b"") + b"data: %b\n\n" % text for n, text in enumerate(texts)]
    logged = data.draw(st.integers(1, len(frames)))
    begins = data.draw(st.integers(0, len(frames)))
    _, overlap = known(frames[:logged], "id").begin()
    got = list(frames[:logged])
    try:
        for frame in frames[begins:]:
            if overlap.over:
                got.append(frame)
            else:
                overlap.take(frame)
    except NotTheSame:
        return
    if overlap.over and (ids or begins == 0):
        assert got == frames
