"""Informational responses of an application: 103 Early Hints and its kind, which a proxy passes on (RFC 9110 §15.2).

httpcore throws that away. So the bytes that it reads are looked at on their way, and not changed. Before it writes,
whoever has to allow it is asked. Of many that are answered at one time, a few go on in each turn of the loop.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from importlib import import_module
from typing import Any, Final

import httpcore

from gateway.asgi import Headers
from gateway.tasks import in_its_turn

Told = Callable[[bytes, Headers], None]

for _module in ("anyio._core._sockets", "anyio._backends._asyncio"):  # which the first request would import
    with suppress(ImportError):  # private names: a version that has others works too
        import_module(_module)

told: Final[ContextVar[Told | None]] = ContextVar("told", default=None)
"""Called with the status line and the headers of each, in the task that has the request made."""

guard: Final[ContextVar[Callable[[], None] | None]] = ContextVar("guard", default=None)
"""Called right before anything of a request is written to the application, in that task. What it raises is raised, and
the connection is closed.
"""

STEP: Final = 10
"""Times 0.1 ms that it takes to begin a request, to write it, or to read its answer's head and pass that on. A thousand
connections may be made, or answered on, at one time.
"""
PIECE: Final = 4
"""The same of a piece of an answer that has begun."""

_BEGINS: Final = b"HTTP/1.1 1"
_MOST: Final = 64 << 10  # bytes that are looked at before an answer
_LINE: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n"
_HEAD: Final = re.compile(rb"(HTTP/1\.1 (1\d\d)(?: [\t\x20-\x7e\x80-\xff]*)?)\r\n((?:%b)*)\r\n" % _LINE)
_CONTINUE: Final = b"100"  # the gateway asks for none: what its client expects, it answers by itself
_SWITCHING: Final = b"101"  # is an answer


class Backend(httpcore.AsyncNetworkBackend):
    """httpcore's own, whose streams are looked at. `options`: of sockets, as setsockopt takes them."""

    def __init__(self, options: Sequence[tuple[int, int, int]] = ()) -> None:
        self._inner = httpcore.AnyIOBackend()
        self._options = options

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        inner = await self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        try:
            await in_its_turn(STEP)
        except BaseException:
            await inner.aclose()
            raise
        stream = Stream(inner)
        sock = stream.get_extra_info("socket")
        with suppress(OSError):
            for option in self._options if sock is not None else ():
                sock.setsockopt(*option)
        return stream

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class Stream(httpcore.AsyncNetworkStream):
    """A connection to the application."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner
        self._seen: bytes | None = None  # None: the answer has begun

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = await self._inner.read(max_bytes, timeout)
        await in_its_turn(PIECE if self._seen is None else STEP)
        if self._seen is not None:
            self._seen = look(self._seen + data, told.get())
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        check = guard.get()
        if check is not None:
            check()
        self._seen = b""  # nothing is read before a request is written
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(self, *arguments: Any, **more: Any) -> httpcore.AsyncNetworkStream:
        return Stream(await self._inner.start_tls(*arguments, **more))

    def get_extra_info(self, info: str) -> Any:
        try:
            return self._inner.get_extra_info(info)
        except (AttributeError, OSError):  # anyio's, of a connection that has been reset: to read it tells
            return True if info == "is_readable" else None


def look(seen: bytes, tell: Told | None) -> bytes | None:
    """Tells of what has come whole. Returns the rest; None: no more is to be told of."""
    while head := _HEAD.match(seen):
        line, status, lines = head.groups()
        if status == _SWITCHING:
            return None
        if status != _CONTINUE and tell is not None:
            fields = [each.partition(b":") for each in lines.split(b"\r\n")[:-1]]
            tell(line, [(name, value.strip(b" \t")) for name, _, value in fields])
        seen = seen[head.end() :]
    begins = seen[: len(_BEGINS)]
    return seen if _BEGINS.startswith(begins) and b"\r\n\r\n" not in seen and len(seen) < _MOST else None
