"""A head is known by its bytes, and behind a plain first line only."""

from __future__ import annotations

import pytest

from gateway.wire.heads import FIELDS, LONGEST, MOST, Head, KnownHeads

HEAD = b"POST /runs/a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n"
SAID = Head({b"host": b"h", b"content-length": b"2"}, 2, True)


@pytest.fixture
def heads() -> KnownHeads:
    heads = KnownHeads()
    heads.learn(HEAD + b"12", SAID, b"12")
    return heads


def test_the_same_headers_are_known_for_another_stream(heads: KnownHeads) -> None:
    assert heads.find(HEAD.replace(b"/runs/a", b"/v1/stream/b/c") + b"{}") == (b"/v1/stream/b/c", SAID, b"{}")


@pytest.mark.parametrize("body", [b"", b"1", b"123", b"12\r\n\r\n"])
def test_a_body_that_is_not_as_long_as_its_head_says_is_unknown(heads: KnownHeads, body: bytes) -> None:
    assert heads.find(HEAD + body) is None


@pytest.mark.parametrize("other", [b"Host: g", b"host: h", b"Host: h ", b"Host: h\r\nX: y"])
def test_other_headers_are_unknown(heads: KnownHeads, other: bytes) -> None:
    assert heads.find(HEAD.replace(b"Host: h", other) + b"12") is None


@pytest.mark.parametrize("line", [b"HTTP/1.0", b"HTTP/1.1 ", b"", b"http/1.1"])
def test_another_version_is_unknown(heads: KnownHeads, line: bytes) -> None:
    assert heads.find(HEAD.replace(b"HTTP/1.1", line) + b"12") is None


def test_what_the_parser_has_read_otherwise_is_not_kept(heads: KnownHeads) -> None:
    packet = HEAD.replace(b"Host: h", b"Host: g") + b"12"
    heads.learn(packet, SAID, b"2")
    assert heads.find(packet) is None


def test_of_heads_a_bounded_number_of_bounded_size_is_kept(heads: KnownHeads) -> None:
    long, many = b"X: " + b"x" * LONGEST, b"\r\n".join([b"%d: x" % n for n in range(FIELDS + 1)])
    for line, said in (
        (long, SAID),
        (many, Head(dict.fromkeys(map(str.encode, map(str, range(FIELDS + 1))), b"x"), 2, True)),
    ):
        packet = HEAD.replace(b"Host: h", line) + b"12"
        heads.learn(packet, said, b"12")
        assert heads.find(packet) is None
    for n in range(MOST):
        heads.learn(HEAD.replace(b"Host: h", b"Host: %d" % n) + b"12", SAID, b"12")
    assert heads.find(HEAD + b"12") is None
    assert heads.find(HEAD.replace(b"Host: h", b"Host: 0") + b"12") is not None
