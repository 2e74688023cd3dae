"""A POST is answered past ASGI or by way of it: whoever sends it, however it comes, cannot tell which.

The same bytes, cut anywhere, are sent on two connections to one application, of which one knows no way past ASGI. All
that the client hears and all that the log is asked has to be the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.http.two_ways import Piece, Ways, both_ways

SETTINGS: dict[str, dict[str, Any]] = {
    "nothing is asked": {},
    "keys": {"auth": "keys", "keys": "w:write:0123456789abcdef-writes r:read:0123456789abcdef-reads"},
    "limits, and several origins": {
        "max_batch": 2,
        "max_event": 20,
        "cors_origins": "https://a.example,https://b.example",
    },
}


@pytest.fixture(params=SETTINGS, scope="module")
def ways(request: pytest.FixtureRequest) -> Iterator[Ways]:
    with both_ways(max_body=50_000, max_head=4_096, **SETTINGS[request.param]) as ways:
        yield ways


KNOWN = b"Authorization: Bearer 0123456789abcdef-writes"
TARGETS = (
    b"/runs/missing", b"/runs/closed", b"/runs/down", b"/runs/full", b"/runs/twice", b"/runs/cancelled",
    b"/v1/stream/a/b", b"/runs/a/heartbeat", b"/runs/a/cancel/x", b"/runs/%61%20b", b"/runs/a%2Fb", b"/runs/a%00",
    b"/runs/%ff", b"/runs/\xc3\xa9", b"/runs/a\x7f", b"/runs/a?x=1", b"/runs/a?", b"/runs/a#x", b"/runs/",
    b"/v1/stream/", b"/v1/stream/__ds/a", b"/v1/stream/__dsa", b"/nothing", b"*", b"http://h/runs/a", b"//runs/a",
    b"/runs/" + b"a" * 300, b"/runs/" + b"a" * 5_000, b"/v1/stream/" + b"a" * 1_020,
)  # fmt: skip
USUAL = st.lists(
    st.sampled_from(
        [b"Connection: keep-alive", b"Connection: close", b"Stream-Closed: TRUE", b"Stream-Closed: no",
         b"Stream-Seq: a", b"Run-Lease: 5", b"Producer-Id: p\r\nProducer-Epoch: 1\r\nProducer-Seq: 6",
         b"Stream-Closed: true \t", b"Producer-Id: p \r\nProducer-Epoch: 1\t\r\nProducer-Seq: 6 ",
         b"Origin: https://a.example", b"Origin: https://c.example", b"X-Request-Id: mine", b"X: \xff"]
    ),
    max_size=2,
    unique=True,
)  # fmt: skip
ODD = (
    b"Content-Type: text/plain", b"Host: other", b"Cookie: a\r\nCookie: b", b"Stream-Seq: \x80", b"Run-Lease: x",
    b"Expect: 100-continue", b"Expect: nothing", b"Connection: keep-alive, Upgrade\r\nUpgrade: h2c",
    b"Upgrade: websocket", b"Producer-Id: p\r\nProducer-Epoch: 1", b"Producer-Seq: 01",
    b"Authorization: Bearer nobody", b"X : a", b"X: a\r\n b", b"Transfer-Encoding: gzip", b"Content-Length: 3",
    b"X: " + b"x" * 5_000,
)  # fmt: skip
BODIES = st.sampled_from([b"1", b'{"a":[1,2]}', b"[1,2]", b'["a",\r\n2] '])
BAD = st.sampled_from([b"[]", b"", b"{", b"\xff", b"[1,2,3]", b'"a line that is too long"'])
LONG = st.sampled_from([33_000, 60_000]).map(lambda length: b'"%b"' % (b"x" * length))


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request, about which one thing is odd at most."""
    odd = draw(st.sampled_from([""] * 5 + ["target"] * 3 + ["header"] * 3 + [
        "method", "version", "credential", "type", "host", "body", "long", "length", "chunked", "both", "neither"
    ]))  # fmt: skip
    method = draw(st.sampled_from([b"GET", b"HEAD", b"PATCH", b"OPTIONS", b"post"])) if odd == "method" else b"POST"
    version = draw(st.sampled_from([b"1.0", b"2.0", b"1.2"])) if odd == "version" else b"1.1"
    target = draw(st.sampled_from(TARGETS)) if odd == "target" else b"/runs/a"
    lines = [method + b" " + target + b" HTTP/" + version]
    if odd != "host":
        lines.append(b"Host: h")
    if odd != "type":
        lines.append(draw(st.sampled_from([b"Content-Type: application/json", b"content-type: Text/Plain;charset=x"])))
    if odd != "credential":
        lines.append(KNOWN)
    elif draw(st.booleans()):
        lines.append(draw(st.sampled_from([KNOWN.replace(b"writes", b"reads"), b"Authorization: Basic x"])))
    lines += draw(USUAL)
    if odd == "header":
        lines.append(draw(st.sampled_from(ODD)))
    body = draw({"long": LONG, "body": BAD}.get(odd, BODIES))
    if odd not in ("chunked", "neither"):
        lines.append(b"Content-Length: %d" % (len(body) + (draw(st.sampled_from([-1, 1])) if odd == "length" else 0)))
    if odd in ("chunked", "both"):
        lines.append(b"Transfer-Encoding: chunked")
        half = len(body) // 2
        chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part]
        body = b"".join([*chunks, b"0\r\n\r\n"])
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@st.composite
def conversations(draw: st.DrawFn) -> list[Piece]:
    """Some requests, one behind the other or in one piece, cut anywhere; and what happens after each piece."""
    sent = b"".join(draw(st.lists(requests(), min_size=1, max_size=3)))
    if len(sent) < 400 and draw(st.sampled_from([True] + [False] * 7)):
        cuts = list(range(1, len(sent)))  # each byte by itself
    else:
        cuts = sorted(draw(st.lists(st.integers(1, len(sent) - 1), max_size=5, unique=True)))
    pieces = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    events = st.sampled_from([""] * 8 + ["told"] * 8 + ["drain", "lost"])
    return [Piece(piece, draw(events)) for piece in pieces]


@st.composite
def packets(draw: st.DrawFn) -> list[Piece]:
    """Requests that come in a packet each, mostly once the one before has been answered; some of them come again."""
    sent = draw(st.lists(requests(), min_size=1, max_size=2))
    again = draw(st.lists(st.sampled_from(sent), max_size=3))
    return [Piece(packet, draw(st.sampled_from(["told"] * 8 + ["", "drain"]))) for packet in sent + again]


@settings(max_examples=150)
@given(conversations() | packets())
def test_nobody_can_tell_which_way_a_post_has_taken(ways: Ways, pieces: list[Piece]) -> None:
    assert ways.talk(pieces, past_asgi=True) == ways.talk(pieces, past_asgi=False)


def plain(target: bytes = b"/runs/a", *headers: bytes) -> tuple[bytes, bytes]:
    """The head and the body of an append to which nothing is odd but what is given."""
    first = b"POST " + target + b" HTTP/1.1"
    lines = [first, b"Host: h", b"Content-Type: application/json", b"Content-Length: 5", KNOWN, *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n", b"[1,2]"


@pytest.mark.parametrize("odd", [*[(target,) for target in TARGETS], *[(b"/runs/a", header) for header in ODD]])
def test_what_is_odd_is_answered_the_same(ways: Ways, odd: tuple[bytes, ...]) -> None:
    head, body = plain(*odd)
    again = [Piece(head + body, "told")] * 3
    for pieces in ([Piece(head + body)], [Piece(head), Piece(body)], [Piece(head, "drain"), Piece(body)], again):
        assert ways.talk(pieces, past_asgi=True) == ways.talk(pieces, past_asgi=False)


def test_blanks_around_a_value_are_none_of_it(ways: Ways) -> None:
    """RFC 9110 §5.5. Every line has some, by which no value may be missed or misread."""
    named = [b"Stream-Closed: true", b"Stream-Seq: s", b"Producer-Id: p", b"Producer-Epoch: 1", b"Producer-Seq: 6"]
    head, body = plain(b"/runs/a", *named)
    lines = head.split(b"\r\n\r\n")[0].split(b"\r\n")
    blank = b"\r\n".join([lines[0], *[line.replace(b": ", b":\t ") + b" \t" for line in lines[1:]]]) + b"\r\n\r\n"
    for past_asgi in (True, False):
        heard = ways.talk([Piece(blank + body, "told")], past_asgi=past_asgi)
        assert heard == ways.talk([Piece(head + body, "told")], past_asgi=past_asgi)
        assert [(request.close, request.stream_seq) for request in heard.asked] == [(True, "s")]


def test_what_breaks_the_log_is_answered_the_same(ways: Ways) -> None:
    pieces = [Piece(b"".join(plain(b"/runs/broken"))), Piece(b"".join(plain()))]
    heard = ways.talk(pieces, past_asgi=True)
    assert heard == ways.talk(pieces, past_asgi=False)
    assert re.findall(rb"HTTP/1.1 (\d+)", heard.written) == [b"500", b"204"]


@pytest.mark.parametrize("cut", [1, 30, 150, -3])
def test_a_plain_append_goes_past_asgi_however_it_is_cut(ways: Ways, cut: int) -> None:
    sent = b"".join(plain(b"/runs/a%20b"))
    heard = ways.talk([Piece(sent[:cut]), Piece(sent[cut:])], past_asgi=True)
    assert heard.past
    assert heard.written.startswith(b"HTTP/1.1 204 ")
    assert [request.path for request in heard.asked] == ["runs/a b"]


@pytest.mark.parametrize("first", [b"POST ", b"PATCH ", b"POST  "])
@pytest.mark.parametrize("target", [b"/runs/b", b"/runs/a?x", b"*", b"/runs/a b"])
def test_a_head_that_came_before_says_what_it_says(ways: Ways, first: bytes, target: bytes) -> None:
    """The same headers, twice behind a first line in order, and then behind others, before a body of any length."""
    head, body = plain()
    usual = [Piece(head + body, "told")] * 2
    for version, tail in product((b"1.1", b"1.0"), (b"", b"]", b" POST / HTTP/1.1\r\n\r\n")):
        other = first + target + b" HTTP/" + version + head[head.index(b"\r\n") :]
        pieces = [*usual, Piece(other + body + tail, "told"), *usual]
        assert ways.talk(pieces, past_asgi=True) == ways.talk(pieces, past_asgi=False)
