"""Catch-up in a content coding (RFC 9110 §8.4.1): each body is compressed once, in a thread, for all who read it.

It knows no streams: a key says which events a body holds, and in which form. They never change, so neither does the
body. No more than a few wait to be compressed: beyond them, readers get the bytes as they are, at once.

A body holds the events of one stream, and nothing of the request: no token, header or address comes back in it. So its
length tells an eavesdropper nothing that its writers did not put beside each other (BREACH needs a secret and a guess
in one body, and many guesses): to guess is to write to the stream, and each guess stays in it.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from importlib.util import find_spec
from typing import Final

from gateway.fanout.single_flight import Shared

SMALLEST: Final = 1024  # bytes of events, below which a packet or two is all that is saved
MOST_WAITING: Final = 8  # bodies
MOST_KEPT: Final = 512  # bodies
LEVEL: Final = 4  # of gzip's nine: from here on a page gets hardly smaller, and takes longer

Parts = Sequence[bytes]
Make = Callable[[], Awaitable[Parts]]


def _gzip(parts: Parts) -> bytes:
    gzip = zlib.compressobj(LEVEL, wbits=31)
    return b"".join([*map(gzip.compress, parts), gzip.flush()])


def _zstd(parts: Parts) -> bytes:
    from zstandard import ZstdCompressor  # the extra `zstd`

    zstd = ZstdCompressor().compressobj(size=sum(map(len, parts)))
    return b"".join([*map(zstd.compress, parts), zstd.flush()])


_CODINGS: Final = {b"zstd": _zstd, b"gzip": _gzip}
OFFERED: Final = tuple(coding for coding in _CODINGS if coding != b"zstd" or find_spec("zstandard"))
"""The codings that there are here. zstd goes first: it takes a fraction of the time, and less room."""


class Bodies:
    """Compressed bodies, those that were asked for last, as many as fit in `most` bytes.

    `made` counts those that were compressed.
    """

    def __init__(self, most: int) -> None:
        self.bytes = 0
        self.made = 0
        self._most = most
        self._kept: OrderedDict[Hashable, bytes | None] = OrderedDict()  # None: it would not be smaller
        self._under_way: dict[Hashable, Shared[bytes | None]] = {}
        self._thread = asyncio.Lock()

    async def __call__(self, key: Hashable, coding: bytes, make: Make) -> bytes | None:
        """The body that `key` names, which `make` makes, in a coding that is OFFERED. None: it is sent as it is.

        Raises what `make` raises.
        """
        key = (coding, key)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        work = self._under_way.get(key)
        if work is None:
            if len(self._under_way) >= MOST_WAITING:
                return None
            work = self._under_way[key] = Shared(self._compress(key, coding, make))
        try:
            return await work.result()
        finally:
            del work  # see Shared.result

    async def _compress(self, key: Hashable, coding: bytes, make: Make) -> bytes | None:
        try:
            parts = await make()
            async with self._thread:
                self.made += 1
                coded = await asyncio.to_thread(_CODINGS[coding], parts)
        finally:
            del self._under_way[key]
        body = coded if len(coded) < sum(map(len, parts)) else None
        self._keep(key, body)
        return body

    def _keep(self, key: Hashable, body: bytes | None) -> None:
        size = len(body or b"")
        if size > self._most // 2:
            return
        self._kept[key] = body
        self.bytes += size
        while self.bytes > self._most or len(self._kept) > MOST_KEPT:
            self.bytes -= len(self._kept.popitem(last=False)[1] or b"")
