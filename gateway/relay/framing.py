"""An answer's bytes as frames: what lies between two blank lines of an event stream, or one line of NDJSON.

Pure. A frame is its bytes, its blank line included: all frames together are the answer, byte for byte. They are not
changed for the log. Lines end as the HTML standard has it (§9.2.5): by LF, CR or CRLF.
"""

from __future__ import annotations

import re
from typing import Final, Literal

Kind = Literal["sse", "ndjson"]

_LINE_END: Final = rb"(?:\r\n|\n|\r)"
# A CR and its LF are one end of a line: a CR that is the last byte waits for what comes next. So it does not matter how
# the bytes are cut.
_BLANK: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n|\Z))")
_NEWLINE: Final = re.compile(rb"\n")
_SILENT: Final = re.compile(rb"(?::[^\r\n]*%b|[\r\n])+" % _LINE_END)
_DATA: Final = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|[\r\n])data(?=[:\r\n])")
_DATA_LINE: Final = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|(?<=[\r\n]))data(?:: ?([^\r\n]*))?(?=[\r\n]|\Z)")
_ID_LINE: Final = re.compile(rb"(?:\A|(?<=[\r\n]))id(?::[^\r\n]*)?%b" % _LINE_END)
# The same to be taken out: with the line's end before it, for a CR and an LF that it has kept apart would be one end.
_ID_OUT: Final = re.compile(rb"\A(?:id(?::[^\r\n]*)?%b)+|%b(?:id(?::[^\r\n]*)?)(?=[\r\n])" % (_LINE_END, _LINE_END))
_LAST_LINE: Final = re.compile(rb"((?:[^\n]*\n)*?)([^\n]*\n?)")
_ENVELOPE: Final = re.compile(rb'\{"id":"(?:[^"\\]|\\.)*","chunk":(.*)\}')
_BOM: Final = b"\xef\xbb\xbf"
_BEFORE: Final = re.compile(rb"\A(?:\xef\xbb\xbf)?[\r\n]*")
_FIRST_END: Final = re.compile(_LINE_END)


class Framer:
    """Cuts bytes, as they come, into frames. `rest` is what has begun and not ended."""

    def __init__(self, kind: Kind) -> None:
        self._end = _BLANK if kind == "sse" else _NEWLINE
        self._rest = bytearray()

    @property
    def rest(self) -> bytes:
        return bytes(self._rest)

    @property
    def size(self) -> int:
        """Bytes of what has begun and not ended."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that end in these bytes."""
        rest = self._rest
        look = max(0, len(rest) - 3)  # an end may be cut anywhere
        rest += data
        frames: list[bytes] = []
        at = 0
        for found in self._end.finditer(rest, look):
            frames.append(bytes(rest[at : found.end()]))
            at = found.end()
        if at:
            del rest[:at]
        return frames


def cut(kind: Kind, body: bytes) -> list[bytes]:
    """Frames that stand together, the last of which may lack its end."""
    framer = Framer(kind)
    frames = framer.feed(body)
    return [*frames, framer.rest] if framer.size else frames


def silent(frame: bytes) -> bool:
    """Whether a frame of an event stream is nothing but comments, by which its sender shows that it is alive."""
    return frame[:1] in (b":", b"\n", b"\r") and _SILENT.fullmatch(frame) is not None


def has_data(kind: Kind, frame: bytes) -> bool:
    """Whether a client is given something of it."""
    return bool(frame.strip()) if kind == "ndjson" else _DATA.search(frame) is not None


def data_of(kind: Kind, frame: bytes) -> bytes:
    """The data that a client is given, its lines joined by LF (HTML §9.2.6)."""
    if kind == "ndjson":
        return frame.strip()
    return b"\n".join(found[1] or b"" for found in _DATA_LINE.finditer(frame))


def with_id(kind: Kind, frame: bytes, id: bytes) -> bytes:
    """A frame with this id in the place of its own. One without data has none: some clients take a frame of nothing but
    an id for a message. A line of NDJSON has no place for an id, so it is put into an envelope, `{"id":…,"chunk":…}`,
    as TanStack AI reads it.
    """
    return _line_with_id(frame, id) if kind == "ndjson" else _event_with_id(frame, id)


def _line_with_id(frame: bytes, id: bytes) -> bytes:
    before, line = _LAST_LINE.fullmatch(frame).groups()  # type: ignore[union-attr]  # anything is
    if not line.strip():
        return frame
    chunk = line.strip()
    own = _ENVELOPE.fullmatch(chunk)
    return b'%b{"id":"%b","chunk":%b}\n' % (before, id, chunk if own is None else own[1])


def _event_with_id(frame: bytes, id: bytes) -> bytes:
    head, fields = _parted(frame)
    if b"id" in fields:
        fields = _ID_OUT.sub(b"", fields)
    if _DATA.search(frame) is None:
        # What looks like a BOM is a part of a field's name, and stays one, behind an empty comment.
        return b"%b:\n%b" % (head, fields) if fields.startswith(_BOM) else head + fields
    end = _FIRST_END.search(fields)
    return b"%bid: %b%b%b" % (head, id, b"\n" if end is None else end[0], fields)


def last_id(frame: bytes) -> bytes | None:
    """The id that the upstream has given a frame; None: none."""
    found = _ID_LINE.findall(_parted(frame)[1])
    return found[-1].partition(b":")[2].strip() if found else None


def _parted(frame: bytes) -> tuple[bytes, bytes]:
    """A frame's fields, and what stands before them: a BOM, empty lines."""
    start = _BEFORE.match(frame)
    assert start is not None, "it may be empty"
    return frame[: start.end()], frame[start.end() :]


def ended(kind: Kind, text: str) -> str:
    """A frame as an operator writes it into a row, with its end."""
    if kind == "ndjson":
        return text.strip("\n") + "\n"
    return text.strip("\r\n") + "\n\n"
