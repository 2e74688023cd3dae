"""The offset of a reader of all runs that a list names: what it was told of the list, and where it stands in each run.

It holds the runs that go on, and those whose end was told before the list has told of it; not those of which nothing
more can come. For each there are a few bytes: the step from the number of the stream before it, and the events before
its position, in the numbers of `gateway.protocol.composite`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.protocol import base64url
from gateway.protocol.changes import Standing, standing_of
from gateway.protocol.composite import OVER, UNBEGUN, varint, varints
from gateway.protocol.offset import MAX_POSITION, join, split

_DIGEST: Final = 4  # bytes
_FIRST: Final = 2  # the number of a run's beginning; 0: it is over; 1: it was not begun
_MOST_EPOCHS: Final = 64


def write(of: bytes, standing: Standing, positions: Mapping[int, int]) -> bytes:
    """Writes an `id:`, for the list whose digest is `of`. `positions`: by the numbers of the runs' streams."""
    epochs = sorted({0, *(split(position)[0] for position in positions.values() if position >= 0)})
    written, before = [], 0
    for stream in sorted(positions):
        position = positions[stream]
        number = 0 if position == OVER else 1
        if position >= 0:
            epoch, count = split(position)
            number = _FIRST + count * len(epochs) + epochs.index(epoch)
        written += [varint(stream - before), varint(number)]
        before = stream
    numbers = standing.numbers()
    head = [len(numbers), *numbers, len(epochs), *epochs]
    return base64url.encode(of + b"".join(map(varint, head)) + b"".join(written)).encode()


def parse(text: bytes, of: bytes, most: int) -> tuple[Standing, dict[int, int]] | None:
    """Parses what `write` wrote of at most so many runs; None: it is none of this list."""
    try:
        data = base64url.decode(text.decode("ascii"))
        if data[:_DIGEST] != of:
            return None
        count, *numbers = varints(data[_DIGEST:])
        standing, (known, *numbers) = standing_of(numbers[:count]), numbers[count:]
        epochs, runs = numbers[: min(known, _MOST_EPOCHS)], numbers[known:]
        if standing is None or len(runs) % 2 or len(runs) > 2 * most or not epochs:
            return None
        positions: dict[int, int] = {}
        stream = 0
        for step, number in zip(runs[::2], runs[1::2], strict=True):
            stream += step
            events, epoch = divmod(max(0, number - _FIRST), len(epochs))
            positions[stream] = join(epochs[epoch], events) if number >= _FIRST else UNBEGUN if number else OVER
            if not step or stream > MAX_POSITION or positions[stream] > MAX_POSITION:
                return None
    except (ValueError, IndexError):
        return None
    return standing, positions
