"""An answer's bytes as frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.relay.framing import Framer, cut, data_of, has_data, last_id, silent, with_id

PIECES = st.lists(
    st.sampled_from(
        [b"data: x", b"data:", b"id: 1", b":c", b"event: e", b"\n", b"\r\n", b"\r", b"\xef\xbb\xbf", b"\x80"]
    )
)


def fed(pieces: list[bytes], kind: str = "sse") -> tuple[list[bytes], bytes]:
    framer = Framer("sse" if kind == "sse" else "ndjson")
    frames = [frame for piece in pieces for frame in framer.feed(piece)]
    return frames, framer.rest


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_frame_ends_at_a_blank_line(end: bytes) -> None:
    frame = b"event: a" + end + b"data: b" + end + end
    assert fed([frame + frame + b"data: c"]) == ([frame, frame], b"data: c")


def test_a_line_is_a_frame_of_ndjson() -> None:
    assert fed([b'{"a":1}\n{"b"', b":2}\n{"], "ndjson") == ([b'{"a":1}\n', b'{"b":2}\n'], b"{")


def test_a_crlf_that_is_cut_is_one_end_of_a_line() -> None:
    assert fed([b"data: a\r\n\r", b"\ndata: b\r\n\r\n"]) == ([b"data: a\r\n\r\n", b"data: b\r\n\r\n"], b"")


@given(PIECES, st.data())
def test_frames_are_the_bytes_however_they_come(pieces: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    frames, rest = fed([whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)])
    assert b"".join(frames) + rest == whole
    assert frames == fed([whole])[0]
    assert b"".join(cut("sse", whole)) == whole


@given(PIECES)
def test_an_id_changes_no_data(pieces: list[bytes]) -> None:
    for frame in fed([b"".join(pieces)])[0]:
        shown = with_id("sse", frame, b"run.7")
        assert data_of("sse", shown) == data_of("sse", frame)
        assert last_id(shown) == (b"run.7" if has_data("sse", frame) else None)
        if has_data("sse", frame):
            assert len(fed([shown])[0]) == len(fed([frame])[0])


def test_an_id_between_two_ends_of_lines_leaves_them_two() -> None:
    assert with_id("sse", b"data: x\rid: 1\n\n", b"run.7") == b"id: run.7\ndata: x\n\n"
    assert with_id("sse", b"id: 1\n\xef\xbb\xbfdata: x\n\n", b"run.7") == b":\n\xef\xbb\xbfdata: x\n\n"


def test_a_byte_order_mark_hides_no_id() -> None:
    assert last_id(b"\xef\xbb\xbfid: 7\ndata: x\n\n") == b"7"
    assert with_id("sse", b"\xef\xbb\xbfid: 7\n: no data\n\n", b"run.7") == b"\xef\xbb\xbf: no data\n\n"


@pytest.mark.parametrize(
    ("frame", "shown"),
    [
        (b"data: a\n\n", b"id: r.1\ndata: a\n\n"),
        (b"event: e\r\ndata: a\r\nid: 5\r\n\r\n", b"id: r.1\r\nevent: e\r\ndata: a\r\n\r\n"),
        (b"id\ndata: a\n\n", b"id: r.1\ndata: a\n\n"),
        (b"\xef\xbb\xbfdata: a\n\n", b"\xef\xbb\xbfid: r.1\ndata: a\n\n"),
        (b"\ndata: a\r\r", b"\nid: r.1\rdata: a\r\r"),
        (b"retry: 10\n\n", b"retry: 10\n\n"),
        (b"id: 5\n\n", b"\n"),
        (b": c\n\n", b": c\n\n"),
        (b"data: id: 5\nid: 6\n\n", b"id: r.1\ndata: id: 5\n\n"),
    ],
)
def test_an_id_stands_only_inside_frames_with_data(frame: bytes, shown: bytes) -> None:
    assert with_id("sse", frame, b"r.1") == shown


@pytest.mark.parametrize(
    ("frame", "is_silent"),
    [
        (b": heartbeat\n\n", True),
        (b":\r\n\r\n", True),
        (b": a\n: b\n\n", True),
        (b"\n\n", True),
        (b": a\ndata: b\n\n", False),
        (b"data: b\n\n", False),
        (b"event: ping\n\n", False),
    ],
)
def test_a_frame_of_nothing_but_comments_is_silent(frame: bytes, is_silent: bool) -> None:
    assert silent(frame) is is_silent


def test_data_is_the_lines_joined() -> None:
    assert data_of("sse", b"data: a\ndata:  b\ndata\ndatas: no\n\n") == b"a\n b\n"
    assert data_of("ndjson", b'{"a":1}\n') == b'{"a":1}'


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b'{"type":"a"}\n', b'{"id":"r.1","chunk":{"type":"a"}}\n'),
        (b' {"type":"a"} \r\n', b'{"id":"r.1","chunk":{"type":"a"}}\n'),
        (b'{"type":"a"}', b'{"id":"r.1","chunk":{"type":"a"}}\n'),
        (b'{"id":"its \\"own\\"","chunk":{"type":"a"}}\n', b'{"id":"r.1","chunk":{"type":"a"}}\n'),
        (b'{"a":1}\n{"b":2}\n', b'{"a":1}\n{"id":"r.1","chunk":{"b":2}}\n'),
        (b"\n", b"\n"),
        (b" \r\n", b" \r\n"),
    ],
)
def test_a_line_with_an_id_is_in_an_envelope(line: bytes, shown: bytes) -> None:
    assert with_id("ndjson", line, b"r.1") == shown
