"""JSON mode (§9.1): a body as the messages that it holds, each as the very bytes that came.

Messages are judged by parsing, and stored as they were written: numbers keep their digits, objects their order, and
half a surrogate pair (RFC 8259 §8.2) stays what it was. Only line breaks become spaces, since an SSE frame is made of
lines; JSON allows them nowhere but between tokens.

A long body is judged in pieces, so that no body, whatever it holds, keeps the loop for more than a few milliseconds.
"""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from collections.abc import Generator
from json import JSONDecodeError, JSONDecoder
from math import isinf
from typing import Any, Final, NoReturn, TypeVar

import orjson

from gateway.protocol.errors import BatchTooLarge, InvalidJson

PIECE: Final = 16 << 10  # bytes of a long body that are judged at once
MUCH: Final = 8 * PIECE  # bytes in which there is no place to cut a piece: mostly they are no JSON
TOKENS: Final = 512  # brackets and commas that are looked at, one by one, at once
SHORT: Final = 4 << 10  # bytes of a body that is no long one, whatever it holds
QUICK: Final = 64 << 10  # bytes of a body that may be looked at as a whole, where that tells all
DIGITS: Final = 1_000  # of a number in a long body; a double has some 300 before its point
DEPTH: Final = 1024  # levels of nesting, as many as orjson reads

_CR, _LF = b"\r\n"  # as numbers: to look for a byte by its bytes takes ten times as long
_SPACE: Final = b" \t\r\n"
_ONE_LINE: Final = bytes.maketrans(b"\r\n", b"  ")
_BETWEEN_OBJECTS: Final = re.compile(rb"\}[ \t]*,[ \t]*\{")
_STRING: Final = rb'"(?:[^"\\]++|\\.)*+"'
_FLAT: Final = rb'[\[{](?:[^\[\]{}"]++|%b)*+[\]}]' % _STRING
_SHALLOW: Final = rb'[\[{](?:[^\[\]{}"]++|%b|%b)*+[\]}]' % (_STRING, _FLAT)
# Up to what a body is cut by: a comma, brackets of something nested deeper, a string that does not end. And the same
# where commas do not matter. Possessive, so each byte is looked at a few times at most.
_RUNS: Final = rb'[\[{][\[{ \t\r\n]*+|[\]}][\]} \t\r\n]*+|"|\Z'
_TOKEN: Final = re.compile(rb'(?:[^\[\]{},"]++|%b|%b)*+(,|%b)' % (_STRING, _SHALLOW, _RUNS), re.DOTALL)
_BRACKET: Final = re.compile(rb'(?:[^\[\]{}"]++|%b|%b)*+(%b)' % (_STRING, _SHALLOW, _RUNS), re.DOTALL)
_NAME: Final = re.compile(_STRING, re.DOTALL)
_IN_STRING: Final = re.compile(rb'(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9A-Fa-f]{4})*+')
_UTF8: Final = getincrementaldecoder("utf-8")
_CLOSES: Final = re.compile(rb"[\]}]")
_CLOSING: Final = bytes.maketrans(b"[{", b"]}")

_T = TypeVar("_T")
Events = Generator[None, None, list[bytes]]
"""Gives way after each piece, and returns the messages in the end."""


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(number: str) -> float:
    value = float(number)
    if isinf(value):
        raise ValueError("A number is larger than a double may be")  # which few clients could read (RFC 8259 §6)
    return value


def _integer(number: str) -> int:
    _finite(number)
    return int(number)


# Takes half a surrogate pair, which orjson refuses and RFC 8259 allows.
_WITH_HALVES: Final = JSONDecoder(parse_int=_integer, parse_float=_finite, parse_constant=_no_constant)


def messages(body: bytes, *, may_be_empty: bool = False, most: int | None = None) -> list[bytes]:
    """The messages of a body: one level of an array is flattened (§9.1.2).

    `may_be_empty`: whether an empty array is allowed, as in a PUT, but not in a POST (§9.1.3). Raises InvalidJson,
    which names the message, when the body is not JSON (RFC 8259), is nested too deep, or is an empty array where that
    is not allowed. Raises BatchTooLarge when there are more than `most`.
    """
    found = quickly(body, may_be_empty=may_be_empty, most=most)
    return at_once(in_pieces(body, may_be_empty=may_be_empty, most=most)) if found is None else found


def quickly(body: bytes, *, may_be_empty: bool = False, most: int | None = None) -> list[bytes] | None:
    """The messages of a body of at most QUICK bytes, written as most clients write them. None: `messages` takes longer
    to find them, or a fault. Raises what `messages` raises.
    """
    if len(body) > QUICK:
        return None
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if most is not None and isinstance(value, list) and len(value) > most:
        raise BatchTooLarge(f"At most {most} events.")
    if _LF in body or _CR in body:
        body = body.translate(_ONE_LINE)
    body = body.strip(b" \t")
    if not isinstance(value, list):
        return [body]
    if not value:
        if not may_be_empty:
            raise _empty()
        return []  # now: `[ ]` is not what dumping gives, so it would be split below, into one event of no bytes
    if len(value) == 1:
        return [body[1:-1].strip(b" \t")]
    # Compact JSON, which most clients send, comes back byte for byte from dumping each element. The copies (b"%b")
    # matter: what `dumps` returns keeps its whole buffer alive, a kilobyte or more.
    try:
        elements = [b"%b" % orjson.dumps(element) for element in value]
    except orjson.JSONEncodeError:
        return None  # orjson reads 1,024 levels of nesting, and writes no more than 254
    if b"[%b]" % b",".join(elements) == body:
        return elements
    return _objects(body, value)


def in_pieces(body: bytes, *, may_be_empty: bool = False, most: int | None = None) -> Events:
    """Cuts like `messages`, and yields after each PIECE bytes. Raises what `messages` raises."""
    body = yield from _trimmed(body)
    events = yield from _Cutting(body, most).run()
    if not events and not may_be_empty:
        raise _empty()
    if _LF in body or _CR in body:
        done = 0
        for n in range(len(events)):
            done += len(events[n]) + 100
            events[n] = events[n].translate(_ONE_LINE)
            if done > 10 * PIECE:
                done = 0
                yield
    return events


def members_in_pieces(body: bytes, most: int) -> Generator[None, None, dict[str, bytes]]:
    """The members of an object by name, each value as it is written; of several of one name the last.

    Raises what `messages` raises, and InvalidJson when it is no object, or has a name that is no text.
    """
    body = yield from _trimmed(body)
    yield from in_pieces(body)
    if body[:1] != b"{":
        raise InvalidJson("It is not an object.")
    found = {}
    for member in (yield from _Members(b"[%b]" % body[1:-1], most).run()):
        name = _NAME.match(member)
        assert name is not None, "it was judged"
        value = member[name.end() :].lstrip(_SPACE)[1:].lstrip(_SPACE)
        try:
            found[orjson.loads(name[0])] = value.translate(_ONE_LINE) if _LF in value or _CR in value else value
        except orjson.JSONDecodeError:
            raise InvalidJson("A name holds half of a surrogate pair.") from None
    return found


def _trimmed(body: bytes) -> Generator[None, None, bytes]:
    """A body without the space around it, of which it may have any amount."""
    begin, end = 0, len(body)
    while begin < end and not body[begin : begin + PIECE].strip(_SPACE):
        begin += PIECE
        yield
    while begin < end and not body[max(begin, end - PIECE) : end].strip(_SPACE):
        end -= PIECE
        yield
    return body[begin:end].strip(_SPACE)


def at_once(work: Generator[None, None, _T]) -> _T:
    """Runs a generator of pieces to its end, without giving way, and returns its result."""
    try:
        while True:
            next(work)
    except StopIteration as end:
        found: _T = end.value
        return found


def _objects(array: bytes, value: list[object]) -> list[bytes] | None:
    """The elements of a valid, non-empty JSON array of objects; None: it takes more. `value`: what it means."""
    if set(map(type, value)) == {dict}:
        # This stands between any two objects, and no two places where it stands share a byte. So when it stands in no
        # more places than that, it stands in no string, and in none of the objects.
        insides = _BETWEEN_OBJECTS.split(array[1:-1].strip(b" \t")[1:-1])
        if len(insides) == len(value):
            return [b"{%b}" % inside for inside in insides]
    return None


class _Cutting:
    """A body on its way to being cut into events at the commas of its outermost array, if it is one.

    It is judged piece by piece. A piece ends at a comma or a bracket, at any depth; it is valid when it is within the
    brackets that are open where it begins and where it ends: so all pieces are valid when the body is, and only then.
    """

    def __init__(self, body: bytes, most: int | None) -> None:
        self._body = body
        self._most = most
        self._array = body[:1] == b"["
        self._open = bytearray(b"[" if self._array else b"")  # brackets, where we are
        self._events: list[bytes] = []
        self._start = 1  # of the event that we are in, or of space before it
        self._blank = (0, 0)  # the last long run of space
        # Of the piece that we are in: where it, or the rest of it, begins; what is judged before that; and the first
        # event that begins in it.
        self._begin = 0
        self._before: list[bytes] = []
        self._first = 0

    def run(self) -> Events:
        body, open_ = self._body, self._open
        at, end = len(open_), len(body)
        while at < end:
            began, stop = at, min(at + PIECE, end)
            for _ in range(TOKENS):
                until = _BRACKET if len(open_) > 1 and at - self._begin < PIECE else _TOKEN
                match = until.match(body, at, stop)
                assert match is not None, "whatever is no token is passed over"
                token, at = match[1], match.end()
                kind = token[:1]
                if kind == b",":
                    self._comma(at - 1)
                elif kind == b'"':  # a string that does not end before `stop`
                    at -= 1
                    if at == began:
                        at = yield from self._long_string(at + 1)
                    break
                elif kind:
                    self._brackets(token, at)
                if at == stop:
                    break
            if stop < end and at == stop and stop - began == PIECE:
                self._monotonous(began, stop)
            if at - self._begin > MUCH:
                self._look(at)
            yield
        self._judge(end)
        return self._events if self._array else [body]

    def _monotonous(self, began: int, stop: int) -> None:
        """Leaves out of what is judged, but for a byte, so much space; refuses a number of so many digits."""
        same = self._body[began:stop]
        if not same.strip(_SPACE):
            if began - self._start <= PIECE and not self._body[self._start : began].strip(_SPACE):
                self._start = stop
            self._blank = self._blank[0] if self._blank[1] == began else began, stop
            self._before.append(self._body[self._begin : began + 1])
            self._begin = stop
        elif same.isdigit() and len(same) > DIGITS:
            raise self._refused(f"A number has more than {DIGITS} digits.")

    def _comma(self, at: int) -> None:
        if self._array and len(self._open) == 1:
            self._event(at)
        if at - self._begin >= PIECE and self._open:
            self._judge(at)
            self._cut(at + 1, _opened(self._open))

    def _cut(self, at: int, before: bytes) -> None:
        """The next piece begins here, behind what stands for all that was before it."""
        self._begin, self._before = at, [before]
        self._first = len(self._events) + (len(self._open) > 1)

    def _look(self, at: int) -> None:
        """Looks for a fault in what has had no comma and no bracket for long. Raises InvalidJson."""
        text = ""
        try:
            text = b"".join((*self._before, self._body[self._begin : at])).decode()
            _WITH_HALVES.decode(text)
        except JSONDecodeError as error:
            if error.pos < len(text) - 2 * PIECE:  # else it is only that the text is not whole
                raise self._refused(f"{error.msg} at line {error.lineno}, column {error.colno}.") from None
        except ValueError:
            return  # what it is that is wrong is told when it is judged

    def _brackets(self, token: bytes, end: int) -> None:
        """Brackets that all open, or all close, with the space between them and after them."""
        brackets = token.translate(None, _SPACE)
        open_ = self._open
        if brackets[0] in b"[{":
            open_ += brackets
            if len(open_) > DEPTH:
                raise InvalidJson(f"It is nested deeper than {DEPTH} levels.")
            if end - self._begin >= PIECE:
                self._judge(end, bytes(open_[::-1].translate(_CLOSING)))
                self._cut(end, _opened(open_))
            return
        if self._array and len(brackets) >= len(open_) > 0:
            closing = [found.start() for found in _CLOSES.finditer(token)][len(open_) - 1] + end - len(token)
            if self._events or self._body[self._start : closing].strip(_SPACE):
                self._event(closing)
        if len(brackets) > len(open_):
            self._judge(end)  # more are closed than were opened
        del open_[max(0, len(open_) - len(brackets)) :]
        if len(open_) > 1 and end - self._begin >= PIECE:
            self._judge(end, bytes(open_[::-1].translate(_CLOSING)))
            self._cut(end, _opened(open_) + (b"0" if open_[-1:] == b"[" else b'"":0'))

    def _event(self, end: int) -> None:
        if self._most is not None and len(self._events) == self._most:
            raise BatchTooLarge(f"At most {self._most} events.")
        begin, stop = self._blank
        until = begin if stop > end - PIECE and not self._body[stop:end].strip(_SPACE) else end
        self._events.append(self._body[self._start : max(until, self._start)].strip(_SPACE))
        self._start = end + 1

    def _long_string(self, start: int) -> Generator[None, None, int]:
        """Judges a string without what it is in. `start`: after its first quote. Returns where its last one is, + 1."""
        body, at, decoder = self._body, start, _UTF8()
        while True:
            found = _IN_STRING.match(body, at, at + PIECE)
            assert found is not None, "it matches nothing as well"
            try:
                decoder.decode(found[0])
            except UnicodeDecodeError:
                raise self._refused("It is not UTF-8.") from None
            if found.end() == at or found.end() == len(body):
                break
            at = found.end()
            yield
        if body[at : at + 1] != b'"' or decoder.getstate()[0]:
            raise self._refused("A string does not end, or holds what no string may.")
        self._before.append(body[self._begin : start])
        self._begin = at  # at the last quote: what is judged is an empty string
        return at + 1

    def _judge(self, end: int, closed: bytes = b"") -> None:
        """Judges a piece up to a comma at `end`, or up to the end of the body; or behind a bracket, with the brackets
        that are `closed` then. Raises InvalidJson.
        """
        if end < len(self._body) and not closed:
            # The comma belongs to it, or else nothing but space could stand before it.
            closed = (b",0" if self._open[-1:] == b"[" else b',"":0') + self._open[::-1].translate(_CLOSING)
        text = b"".join((*self._before, self._body[self._begin : end], closed))
        fault = fault_of(text)
        if fault is None:
            return
        if not self._array:
            raise InvalidJson(fault)
        for n in range(self._first, len(self._events)):
            of_event = fault_of(self._events[n])
            if of_event is not None:
                raise InvalidJson(f"Event {n}, counted from 0: {of_event}")
        inside = self._start < end or (self._start == end and self._open)  # an event, which the piece does not end
        if self._first > len(self._events) or (inside and fault_of(self._body[self._start : end] + closed[:-1])):
            raise self._refused(fault)
        raise InvalidJson(f"Event {max(0, self._first - 1)}, counted from 0: {fault}")

    def _refused(self, fault: str) -> InvalidJson:
        if self._array:
            return InvalidJson(f"Event {len(self._events)}, counted from 0: {fault}")
        return InvalidJson(fault)


class _Members(_Cutting):
    """The members of an object that was judged, cut like the events of an array."""

    def _judge(self, end: int, closed: bytes = b"") -> None:
        pass


def _opened(brackets: bytearray) -> bytes:
    """JSON that opens the given brackets, and after which a member of the innermost may follow."""
    return bytes(brackets[:-1].replace(b"{", b'{"":') + brackets[-1:])


def value_of(text: bytes) -> Any:
    """The value of a short JSON text, which may hold half a surrogate pair, as JSON.stringify's. Raises ValueError."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            return _WITH_HALVES.decode(text.decode())
        except RecursionError:
            raise ValueError(f"It is nested deeper than {DEPTH} levels.") from None


def fault_of(text: bytes) -> str | None:
    """The reason, in words, why a text is no message; None: it is one."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    else:
        return None
    try:
        _WITH_HALVES.decode(text.decode())
    except JSONDecodeError as error:
        return f"{error.msg} at line {error.lineno}, column {error.colno}."
    except UnicodeDecodeError:
        return "It is not UTF-8."
    except RecursionError:
        return f"It is nested deeper than {DEPTH} levels."
    except ValueError as error:
        return f"{error}."
    return None


def _empty() -> InvalidJson:
    return InvalidJson("An empty array appends nothing.")
