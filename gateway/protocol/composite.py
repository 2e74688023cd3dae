"""Composite offsets: where a reader of many streams stands in each of them, as one short text.

An EventSource sends back only the last `id:` that it has read, so each is whole: any Machine goes on from it, and none
keeps anything. It is a digest of what is followed, so that it is not taken for the offset of another request; the
epochs that occur (offset.py); and for each stream, in the order in which they are named, a number of 7 bits a byte: the
events before the position. Streams that are over take two bytes a row, one that was not begun one. A thousand streams
of up to 16,000 events each are 2,700 characters; forty are 120.

Why nothing shorter: one number for all streams would have to be in the order of commits, which no stream shares with
another (law 5), and a name for a state that the database keeps would have readers write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

from gateway.protocol import base64url
from gateway.protocol.offset import MAX_POSITION, join, split

OVER: Final = -1
"""The position of a stream of which everything was said."""
UNBEGUN: Final = -3
"""The position of a stream of which nothing was said: the request says where it is to be begun."""

_DIGEST: Final = 4  # bytes
_MOST_EPOCHS: Final = 64
_FIRST: Final = 2  # the number of a stream's beginning; 0: it is over; 1: it was not begun
_OVER: Final = re.compile(rb"\x00+")  # of all numbers, only zero ends with a zero byte


def digest(names: Iterable[str]) -> bytes:
    """The digest that an offset is bound to: of the streams that are followed, in their order."""
    return sha256("\n".join(names).encode()).digest()[:_DIGEST]


class Composite:
    """The positions of streams, from which an offset is written as often as one of them has moved."""

    __slots__ = ("_epochs", "_numbers", "_of", "positions")

    def __init__(self, of: bytes, positions: Sequence[int]) -> None:
        self.positions = list(positions)
        self._of = of
        self._epochs: list[int] = [0]
        self._numbers: list[bytes] = []
        self._write_anew()

    def move(self, place: int, position: int) -> None:
        """The stream at this place of the list stands at another position now."""
        self.positions[place] = position
        if position >= 0 and split(position)[0] not in self._epochs:
            self._write_anew()
        else:
            self._numbers[place] = self._number(position)

    def __bytes__(self) -> bytes:
        numbers = _OVER.sub(lambda run: b"\0" + varint(len(run[0])), b"".join(self._numbers))
        head = varint(len(self._epochs)) + b"".join(map(varint, self._epochs))
        return base64url.encode(self._of + head + numbers).encode()

    def _write_anew(self) -> None:
        self._epochs = sorted({0, *(split(position)[0] for position in self.positions if position >= 0)})
        self._numbers = [self._number(position) for position in self.positions]

    def _number(self, position: int) -> bytes:
        if position < 0:
            return b"\0" if position == OVER else b"\1"
        epoch, count = split(position)
        return varint(_FIRST + count * len(self._epochs) + self._epochs.index(epoch))


def parse(text: bytes, of: bytes, count: int) -> list[int] | None:
    """The positions of `count` streams; None: this is no offset of theirs."""
    try:
        data = base64url.decode(text.decode("ascii"))
        if data[:_DIGEST] != of:
            return None
        numbers = iter(varints(data[_DIGEST:]))
        epochs = [next(numbers) for _ in range(min(next(numbers), _MOST_EPOCHS))]
        positions: list[int] = []
        for number in numbers:
            if number >= _FIRST:
                events, epoch = divmod(number - _FIRST, len(epochs))
                positions.append(join(epochs[epoch], events))
            elif number:
                positions.append(UNBEGUN)
            else:
                positions += [OVER] * min(next(numbers), count + 1)
            if len(positions) > count:
                return None
    except (ValueError, ZeroDivisionError, RuntimeError, StopIteration):
        return None
    return positions if len(positions) == count and all(at <= MAX_POSITION for at in positions) else None


def varint(number: int) -> bytes:
    """A number in 7 bits a byte, the lowest first; each byte but the last has its highest bit set."""
    if number < 0x80:
        return b"%c" % number
    written = bytearray()
    while number >= 0x80:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def varints(data: bytes) -> list[int]:
    """The numbers of which `varint` wrote one after the other. Raises ValueError for anything else."""
    found: list[int] = []
    number = shift = 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
            if shift > 63:
                raise ValueError("no number is so large")
        else:
            found.append(number)
            number = shift = 0
    if shift:
        raise ValueError("the last number has no end")
    return found
