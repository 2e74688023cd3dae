"""A request to the upstream on a connection of its own: it is sent once, and to close the connection is to leave it.

The answer's bytes are given to a listener in the turn of the loop in which they come, without a task or a queue. The
listener says when it cannot take more; then nothing is read, and the upstream has to wait. What comes behind the answer
is no part of it, whatever it looks like.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from typing import Final, Protocol, cast
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from gateway.asgi import Headers
from gateway.http import informational
from gateway.http.upstream import CONNECT_TIMEOUT, BadGateway
from gateway.relay.reading import Reading

HEAD: Final = 100 << 10  # bytes that come before the body, at most: as many as httpcore allows
HELD: Final = 64 << 10  # bytes that wait for a listener before the upstream has to
SLICE: Final = 32 << 10  # bytes that a listener is given in one turn of the loop
_VERSIONS: Final = ("1.0", "1.1")
_LAST_STATUS: Final = 599  # RFC 9110 §15: what is above is no answer
_REASON: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class Listener(Protocol):
    """Takes an answer: its bytes as they come, and its end. `fault`: why it is not whole; None: it is."""

    def data(self, data: bytes) -> None: ...
    def ended(self, fault: str | None) -> None: ...


class Answer(asyncio.Protocol):
    """An answer, from its head on. `status`, its `reason` and `headers` are the upstream's.

    `told`: is told what the upstream says before it (RFC 9110 §15.2).
    """

    def __init__(self, told: informational.Told | None = None) -> None:
        self.status = 0
        self.reason = b""
        self.headers: Headers = []
        self._head: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._parser = HttpResponseParser(self)
        self._told = told
        self._seen: bytes | None = b""  # as in informational.Stream
        self._before = 0  # bytes that have come before the head was whole
        self._listener: Listener | None = None
        self._gathered: list[bytes] = []
        self._held = 0
        self._giving: asyncio.Handle | None = None  # of what is left, in the next turn of the loop
        self._stopped = False  # its listener cannot take more
        self._interim = False
        self._whole = False
        self._until_eof = False
        self._over: tuple[str | None] | None = None  # its end, once it is known
        self._transport: asyncio.Transport | None = None
        self._reading: Reading | None = None  # together with others, if that is so
        self._descriptor = -1

    async def head(self) -> None:
        """Returns when the head is there. Raises BadGateway."""
        await self._head

    def listen(self, listener: Listener) -> None:
        """Gives everything to `listener`, at first what has come so far."""
        self._listener = listener
        self._give()
        self.go_on()
        self._tell()

    def hold(self) -> None:
        """Keeps what comes from now on for the next who listens."""
        self._listener = None

    def read_with(self, reading: Reading) -> None:
        """Has this answer read together with others from now on, where that is possible."""
        transport = self._transport
        if transport is None or transport.is_closing() or not reading.possible or self._over is not None:
            return
        descriptor = transport.get_extra_info("socket").fileno()
        if descriptor >= 0 and transport.get_extra_info("sslcontext") is None:
            self.wait()
            self._reading, self._descriptor = reading, descriptor
            self.go_on()

    def wait(self) -> None:
        """Reads no further for now."""
        self._stopped = True
        self._pause()

    def go_on(self) -> None:
        """Reads on."""
        self._stopped = False
        if self._giving is None:
            self._resume()

    def _pause(self) -> None:
        if self._reading is not None:
            self._reading.remove(self._descriptor)
        elif self._transport is not None and not self._transport.is_closing() and self._transport.is_reading():
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._reading is not None:
            self._reading.add(self._descriptor, self._take)
        elif self._transport is not None and not self._transport.is_closing() and not self._transport.is_reading():
            self._transport.resume_reading()

    def close(self) -> None:
        """Leaves: the upstream finds its connection closed."""
        self._listener = None
        self._read_alone()
        if self._transport is not None:
            self._transport.abort()

    def give_up(self) -> None:
        """Leaves, and tells the listener so."""
        self._end("nobody wants the rest")
        self._gathered, self._held = [], 0
        self._read_alone()
        if self._transport is not None:
            self._transport.abort()
        self._tell()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body for a caller that only passes it on. Raises BadGateway where it is cut."""
        queue = _Queue(self)
        self.listen(queue)
        try:
            while (piece := await queue.next()) is not None:
                yield piece
        finally:
            self.close()

    def _take(self, data: bytes, error: OSError | None) -> None:
        if data:
            self.data_received(data)
        else:
            self.connection_lost(error)
            self.close()

    def _read_alone(self) -> None:
        """Leaves the common reading, before the descriptor becomes another connection's."""
        if self._reading is not None:
            self._reading.remove(self._descriptor)
            self._reading = None

    # What asyncio and the parser call

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        if self._seen is not None:
            self._seen = informational.look(self._seen + data, self._told)
        fault = None
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            fault = "the upstream has changed the protocol"
        except HttpParserError:
            fault = "what the upstream sends is no HTTP"
        if not self._head.done():
            self._before += len(data)
            if self._before > HEAD:
                fault = fault or f"the head of the upstream's answer has more than {HEAD} bytes"
        self._give()
        if self._whole:
            self._end(None)  # whatever is behind it
        elif fault is not None:
            self._end(fault)
        self._tell()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self._read_alone()
        if self._over is None:
            clean = self._whole or (self._until_eof and error is None)
            self._end(None if clean else "the upstream's connection was cut")
        self._tell()

    def on_message_begin(self) -> None:
        if self._whole:
            raise HttpParserError("Nothing was asked that this would be an answer to.")
        self.reason = b""

    def on_status(self, status: bytes) -> None:
        self.reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head.done():  # what comes behind the body is nobody's
            self.headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        is_http = self._parser.get_http_version() in _VERSIONS and _REASON.fullmatch(self.reason) is not None
        if not is_http or not 100 <= self.status <= _LAST_STATUS:
            raise HttpParserError("It is no answer.")
        self._interim = self.status < 200
        if self._interim:
            self.headers = []
            return
        codings = [value.lower() for name, value in self.headers if name.lower() == b"transfer-encoding"]
        if codings not in ([], [b"chunked"]):
            raise HttpParserError("It is in a coding that nobody has asked for.")
        self._until_eof = not codings and all(name.lower() != b"content-length" for name, _ in self.headers)
        if not self._head.done():
            self._head.set_result(None)

    def on_body(self, body: bytes) -> None:
        self._gathered.append(body)
        self._held += len(body)

    def on_message_complete(self) -> None:
        self._whole = not self._interim

    def _give(self) -> None:
        if self._listener is None:
            if self._held > HELD:
                self.wait()
        elif self._gathered and self._giving is None:
            data = self._gathered[0] if len(self._gathered) == 1 else b"".join(self._gathered)
            self._gathered, self._held = [], 0
            if len(data) > SLICE:
                self._gathered, self._held = [data[SLICE:]], len(data) - SLICE
                self._giving = asyncio.get_running_loop().call_soon(self._give_on)
                self._pause()
            self._listener.data(data[:SLICE])

    def _give_on(self) -> None:
        self._giving = None
        self._give()
        if self._giving is None and not self._stopped:
            self._resume()
        self._tell()

    def _end(self, fault: str | None) -> None:
        if self._over is not None:
            return
        self._over = (fault,)
        if not self._head.done():
            self._head.set_exception(BadGateway(f"Before it has answered, {fault}."))
            self._head.exception()  # a caller that waits for it gets it; there may be none
        self._read_alone()
        if self._transport is not None:
            self._transport.close()

    def _tell(self) -> None:
        if self._over is not None and self._listener is not None and not self._gathered:
            listener, self._listener = self._listener, None
            listener.ended(*self._over)


class _Queue:
    """Holds what has come until it is awaited."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._pieces: list[bytes] = []
        self._over: tuple[str | None] | None = None
        self._bell = asyncio.Event()

    def data(self, data: bytes) -> None:
        self._pieces.append(data)
        self._answer.wait()
        self._bell.set()

    def ended(self, fault: str | None) -> None:
        self._over = (fault,)
        self._bell.set()

    async def next(self) -> bytes | None:
        while not self._pieces and self._over is None:
            await self._bell.wait()
            self._bell.clear()
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            self._answer.go_on()
            return b"".join(pieces)
        assert self._over is not None, "or there would be more"
        if self._over[0] is not None:
            raise BadGateway(self._over[0])
        return None


class Asking:
    """Requests to the upstream at `origin`, such as `http://127.0.0.1:3000`; nothing else is ever asked."""

    def __init__(self, origin: str) -> None:
        url = urlsplit(origin)
        self._host = url.hostname or ""
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if url.scheme == "https" else None

    async def __call__(
        self, method: str, target: bytes, headers: Headers, body: bytes, told: informational.Told | None = None
    ) -> Answer:
        """Asks, and returns as the head of the answer is there. Raises BadGateway. `told`: as an Answer has it."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                transport, answer = await asyncio.get_running_loop().create_connection(
                    lambda: Answer(told), self._host, self._port, ssl=self._ssl
                )
        except (OSError, TimeoutError) as error:  # ssl's errors are OSErrors
            raise BadGateway from error
        _allowed(transport, method)
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        transport.write(b"%b %b HTTP/1.1\r\n%bconnection: close\r\n\r\n" % (method.encode(), target, lines) + body)
        try:
            await answer.head()
        except BaseException:
            answer.close()
            raise
        return answer


def _allowed(transport: asyncio.Transport, method: str) -> None:
    """Whether this may be sent still, by this Machine. Raises BadGateway: nothing was sent."""
    check = informational.guard.get()
    if check is None or method != "POST":
        return
    try:
        check()
    except Exception as error:
        transport.abort()
        raise BadGateway from error
