"""An upstream's answer as it is read, beside h11: any bytes in any cutting, and what stands around an answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.asgi import Headers
from gateway.http.upstream import BadGateway
from gateway.relay.asking import HEAD, SLICE, Answer


class Transport:
    """A connection that is closed, or not read from."""

    closed = False
    reading = True

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


@dataclass
class Read:
    """What somebody has made of an upstream's bytes. `whole`: None, as long as nothing says so."""

    status: int = 0
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    whole: bool | None = None
    told: list[bytes] = field(default_factory=list)

    def data(self, data: bytes) -> None:
        self.body += data

    def ended(self, fault: str | None) -> None:
        assert self.whole is None, "an end comes once"
        self.whole = fault is None


def by_us(pieces: Sequence[bytes]) -> Read:
    """As the relay reads it."""

    async def read() -> Read:
        found = Read()
        answer = Answer(lambda line, _: found.told.append(line))
        transport: Any = Transport()
        answer.connection_made(transport)
        listening = False
        for piece in pieces:
            if not transport.closed:
                answer.data_received(piece)
                if answer.status >= 200 and not listening and not transport.closed:
                    listening = True
                    answer.listen(found)
        answer.connection_lost(None)
        try:
            await answer.head()
        except BadGateway:
            found.whole = False
            return found
        if not listening:
            answer.listen(found)
        found.status, found.headers = answer.status, [(name.lower(), value) for name, value in answer.headers]
        return found

    return asyncio.run(read())


def by_h11(data: bytes) -> Read:
    """As httpcore does, which plain GATEWAY_UPSTREAM uses."""
    found = Read()
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD)
    connection.send(h11.Request(method="POST", target="/", headers=[("host", "x"), ("connection", "close")]))
    connection.send(h11.EndOfMessage())
    try:
        for given in (data, b""):
            connection.receive_data(given)
            while (event := connection.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Response):
                    found.status = event.status_code
                    found.headers = [(name, value) for name, value in event.headers]
                elif isinstance(event, h11.Data):
                    found.body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    found.whole = True
                    return found
                elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                    found.whole = False
                    return found
    except h11.RemoteProtocolError:
        found.whole = False
    return found


def without_empty_lines(data: bytes) -> bytes:
    """Without those before a status line: we do as RFC 9112 §2.2 has it of a request, and look past them."""
    return re.sub(rb"(\A|\r\n\r\n)[\r\n]+(?=HTTP/)", rb"\1", data)


CHUNKS = st.lists(st.binary(min_size=1, max_size=20), max_size=4)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """One that is as it should be, in one of the ways that HTTP/1.1 has."""
    interim = draw(
        st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"])
    )
    status = draw(st.sampled_from([b"200 OK", b"201 Created", b"404 Not Found", b"500 ", b"204 No Content"]))
    more = draw(
        st.sampled_from([b"", b"x-empty:\r\n", b"content-type: text/event-stream\r\nx-a:  b \r\n", b"x: \xe9\r\n"])
    )
    pieces = draw(CHUNKS)
    body = b"".join(pieces)
    if status.startswith(b"204"):
        return b"%bHTTP/1.1 %b\r\n%b\r\n" % (interim, status, more)
    match draw(st.sampled_from(["length", "chunked", "close", "1.0"])):
        case "length":
            return b"%bHTTP/1.1 %b\r\n%bcontent-length: %d\r\n\r\n%b" % (interim, status, more, len(body), body)
        case "chunked":
            extension = draw(st.sampled_from([b"", b";a", b';a="b"']))
            trailer = draw(st.sampled_from([b"", b"x-t: 1\r\n"]))
            chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(each), extension, each) for each in pieces)
            head = b"HTTP/1.1 %b\r\n%btransfer-encoding: chunked\r\n\r\n" % (status, more)
            return b"%b%b%b0\r\n%b\r\n" % (interim, head, chunks, trailer)
        case "close":
            return b"%bHTTP/1.1 %b\r\n%b\r\n%b" % (interim, status, more, body)
        case _:
            return b"HTTP/1.0 %b\r\n%b\r\n%b" % (status, more, body)


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """An answer, and what somebody has done to it."""
    data = draw(answers())
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        gone = draw(st.integers(0, 4))
        put = draw(st.sampled_from(BAD) | st.binary(max_size=3))
        data = data[:at] + put + data[at + gone :]
    return data


BAD = [
    b"",
    b"\r\n",
    b"\n",
    b"\r",
    b"content-length: 3\r\n",
    b"content-length: 3\r\ncontent-length: 4\r\n",
    b"content-length: +3\r\n",
    b"transfer-encoding: chunked\r\n",
    b"transfer-encoding: gzip, chunked\r\n",
    b"transfer-encoding: identity\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"x: a\r\n b\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffffff\r\n",
    b"-1\r\n",
    b"0x3\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    b"HTTP/2.0",
    b"\x00",
]


@st.composite
def cut(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> list[bytes]:
    """Bytes as they come, in pieces."""
    data = draw(whole)
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True) if a < b]


@given(pieces=cut(answers()))
def test_what_is_as_it_should_be_is_read_as_h11_reads_it(pieces: list[bytes]) -> None:
    ours, theirs = by_us(pieces), by_h11(b"".join(pieces))
    assert (ours.whole, ours.status, ours.body) == (True, theirs.status, theirs.body)
    assert ours.headers == theirs.headers


@given(pieces=cut(spoilt()))
@example(pieces=[b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\naHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nb"])
@example(pieces=[b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx-t: 1\r\n\r\n"])
def test_what_h11_takes_for_no_answer_is_never_whole(pieces: list[bytes]) -> None:
    ours, theirs = by_us(pieces), by_h11(without_empty_lines(b"".join(pieces)))
    if ours.whole:
        assert theirs.whole
        assert (ours.status, ours.headers, ours.body) == (theirs.status, theirs.headers, theirs.body)
    elif ours.status and theirs.status:
        assert theirs.body.startswith(ours.body) or ours.body.startswith(theirs.body)


def test_what_comes_behind_an_answer_is_no_part_of_it() -> None:
    one = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none"
    other = b"HTTP/1.1 201 Created\r\nx: y\r\ncontent-length: 5\r\n\r\nother"
    read = by_us([one + other])
    assert (read.status, read.body, read.whole) == (200, b"one", True)
    assert read.headers == [(b"content-length", b"3")]


def test_a_head_without_an_end_is_given_up() -> None:
    def endless() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nx: "
        for _ in range(2 * HEAD // 1024):
            yield b"x" * 1024

    assert by_us(list(endless())).whole is False


@pytest.mark.parametrize("status", [b"000", b"099", b"600", b"999"])
def test_a_status_that_http_does_not_have_is_no_answer(status: bytes) -> None:
    assert by_us([b"HTTP/1.1 %b X\r\ncontent-length: 0\r\n\r\n" % status]).whole is False


def test_what_is_said_before_an_answer_is_told() -> None:
    read = by_us([b"HTTP/1.1 103 Early Hints\r\nlink: </a", b">\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"])
    assert (read.status, read.told) == (204, [b"HTTP/1.1 103 Early Hints"])


async def test_much_that_has_come_is_given_in_turns_of_the_loop() -> None:
    class Slow(Read):
        most = 0

        def data(self, data: bytes) -> None:
            super().data(data)
            self.most = max(self.most, len(data))

    body = bytes(range(256)) * (4 * SLICE // 256)
    answer, heard = Answer(), Slow()
    transport: Any = Transport()
    answer.connection_made(transport)
    answer.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    answer.listen(heard)
    assert heard.body == body[:SLICE]
    for turn in range(2, 5):
        assert heard.whole is None and not transport.reading
        await asyncio.sleep(0)
        assert heard.body == body[: turn * SLICE]
    assert (heard.whole, heard.most) == (True, SLICE)


async def test_a_cut_answers_listener_is_given_all_before_its_end() -> None:
    answer, heard = Answer(), Read()
    transport: Any = Transport()
    answer.connection_made(transport)
    answer.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + bytes(3 * SLICE))
    answer.listen(heard)
    answer.connection_lost(None)
    ends = []
    for _ in range(3):
        ends.append(heard.whole)
        await asyncio.sleep(0)
    assert [*ends, heard.whole] == [None, None, False, False]
    assert len(heard.body) == 3 * SLICE
