"""Intake of what a client sends: one request at a time, and a bounded number of bytes in each turn of the loop.

Bytes behind a request (RFC 9112 §9.3.2) stay unparsed until that request is answered: nothing is made for them, all
requests are answered in their order, and the connection goes on reading, so that it learns when its client leaves. The
parser is given bytes up to the end of a head, or of a body, and never further.

Looking for these ends first would cost a tenth of an append. So a packet that begins with a POST is given to the parser
as it came, since mostly nothing is behind that POST; where something is, the parser is stopped as it begins.
"""

from __future__ import annotations

import asyncio
from asyncio import Transport
from collections import OrderedDict, deque
from typing import Any, ClassVar, Final, Protocol, cast
from weakref import WeakValueDictionary

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.protocol.errors import HeadTooLarge, MalformedHttp, ProtocolError, TooManyPending
from gateway.wire.heads import body_length, without_upgrade
from gateway.wire.slim import Flow

TURN: Final = 64 << 10  # bytes of a connection that the parser is given in a turn, at most
SLICE: Final = (
    4 << 10
)  # bytes of a chunked body that it is given at once: each may be a chunk, but for the lines between
# What a turn of the loop takes in is reckoned in lines of chunked bodies: 2,000 take 5 to 10 ms.
LINES: Final = 2_000  # in a turn, of one connection, and of all; what comes beyond waits for its turn
PACKET: Final = 3  # what it costs to be given something, or to append past ASGI
EACH: Final = LINES // 5  # of one tenant, while others send as well
LASTS: Final = 1.0  # seconds for which a tenant that has sent something counts among those who send
LOW: Final = LINES // 4  # with less left, the next turn begins anew: one more in each would cost more than it counts
ANSWER: Final = 200  # the beginning of an answer over ASGI: from 0.1 ms to 0.7, by way of FastAPI
FIRST: Final = 4  # requests that go before all others, in a turn of the loop
BEHIND: Final = 64 << 10  # bytes that may wait for their turn, give or take a read; then the client has to wait
WHOLE: Final = -1  # in the place of a count of bytes: something of a request has just come whole
_END: Final = b"\r\n\r\n"  # of a head, of a chunked body, and of nothing else outside of bodies

# Where the parser is:
BETWEEN: Final = 0  # two requests
IN_HEAD: Final = 1
IN_BODY: Final = 2


class Arriving(Protocol):
    """The bytes of this process's clients that are kept while the rest of their requests is on its way."""

    held: int

    def over(self, own: int) -> bool:
        """True if too many bytes are arriving. `own`: those of the asking connection; a lone one is never over."""
        ...


class _Upgrade(Exception):
    """The head that has come asks for another protocol."""


class _Chunked(Exception):
    """The request that a packet begins with does not say where it ends."""


class _Next(Exception):
    """Another request has begun in a packet, behind one that has come whole."""


class Share:
    """The lines that the connections of one tenant may take in yet in this turn. `of`: the tenant; None: the share
    of all connections whose tenant is not known.
    """

    __slots__ = ("__weakref__", "left", "of", "turn", "waiting")

    def __init__(self, of: str | None) -> None:
        self.of = of
        self.left = 0
        self.turn = -1  # for which that is
        self.waiting: deque[Intake] = deque()


class Turns:
    """Gives connections their turns: as many in a turn of the loop as it does not hold up, and where several tenants
    send, EACH to each. Otherwise who sends little would wait, at each step, for all that others send. `left`: lines
    that this turn may take in yet, of those who wait and then of what comes from the sockets.
    """

    def __init__(self) -> None:
        self.left = LINES
        self.begun = False  # the next turn is waited for
        self.number = 0
        self.nobodys = Share(None)
        self._shares: WeakValueDictionary[str, Share] = WeakValueDictionary()
        self._first: deque[Intake] = deque()
        self._waiting: OrderedDict[Share, None] = OrderedDict()  # shares of whose connections some wait
        self._last: Share | None = None  # of a tenant, that has taken something in
        self._sent = 0.0  # until when a tenant is taken to send
        self._several = 0.0  # until when several are

    def of(self, tenant: str | None) -> Share:
        """A tenant's share."""
        if tenant is None:
            return self.nobodys
        share = self._shares.get(tenant)
        if share is None:
            share = self._shares[tenant] = Share(tenant)
        return share

    def renew(self, share: Share, now: float) -> None:
        """Gives a tenant its share of this turn. New connections, whose tenant is not known yet, make no lone tenant
        wait: they have a share beside its own.
        """
        share.turn = self.number
        if share is self.nobodys:
            share.left = EACH if now < self._sent else LINES
            return
        if share is not self._last:
            self._last, self._several = share, now + LASTS if now < self._sent else 0.0
        self._sent = now + LASTS
        share.left = EACH if now < self._several else LINES

    def ask(self, connection: Intake, *, first: bool = False) -> None:
        """Lets a connection go on with what waits there. `first`: before those who came earlier, FIRST in a turn."""
        if first:
            self._first.append(connection)
        else:
            connection.share.waiting.append(connection)
            self._waiting[connection.share] = None
        if not self.begun:
            self.begin(connection.loop)

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Much was taken in, or something waits: the next turn begins anew."""
        self.begun = True
        loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self.begun = False
        self.left = LINES
        self.number += 1
        now = loop.time()
        for _ in range(min(FIRST, len(self._first))):
            connection = self._first.popleft()
            self._go_on(connection, connection.share, loop)
        waiting = deque((share, len(share.waiting)) for share in self._waiting)
        while waiting and self.left > 0:
            share, count = waiting.popleft()
            if share.turn != self.number:
                self.renew(share, now)
                self._waiting.move_to_end(share)  # whoever was not reached is the first of the next turn
            connection = share.waiting.popleft()
            if not share.waiting:
                del self._waiting[share]
            self._go_on(connection, share, loop)
            if count > 1 and share.left > 0:
                waiting.append((share, count - 1))
        if not self.begun and (self._first or self._waiting or self.left < LOW):
            self.begin(loop)

    def _go_on(self, connection: Intake, share: Share, loop: asyncio.AbstractEventLoop) -> None:
        try:
            lines = PACKET + connection.go_on()  # which may itself take from what is left
            self.left -= lines
            share.left -= lines
        except Exception as error:  # noqa: BLE001  as the loop does with what it calls itself
            loop.call_exception_handler({"message": "A connection's turn failed.", "exception": error})


class Intake(HttpToolsProtocol):
    """uvicorn's protocol class, which says what to do with a request; here is how it comes."""

    patience: ClassVar[float] = 60.0  # seconds that a request may take to arrive
    head_limit: ClassVar[int] = 32 << 10  # bytes of a request's line and headers
    arriving: ClassVar[Arriving]
    turns: ClassVar[Turns]
    first: ClassVar[tuple[bytes, ...]] = ()  # how requests begin that do not wait behind others'

    flow: Flow

    __slots__ = (
        "_at_once", "_behind", "_deaf", "_head", "_lines", "_stage", "_turn", "busy", "counted", "due", "left", "share",
    )  # fmt: skip

    def __init__(self, config: Config, *arguments: Any, **more: Any) -> None:
        super().__init__(config, *arguments, **more)
        self.pipeline = cast("Any", ())  # uvicorn's own, which nothing is put into here
        self.busy = False  # a request has come whole, and its answer has not gone out
        self.counted = 0  # bytes, among those that are arriving, of the body that is
        self._behind: bytes | bytearray = b""  # what the parser has not been given yet
        self._turn = False  # it will be given more at the loop's next turn
        self._deaf = False  # what still comes is thrown away
        self._lines = 0  # of a chunked body, in the last turn
        self._at_once = 0  # 1: the parser is being given a packet as it came; 2: a request has begun in it
        self._stage = BETWEEN
        self._head = 0  # bytes that have come since anything of a request was whole
        self.left = 0  # bytes that are missing of a body whose length is known
        self.share = self.turns.nobodys  # until it is known who sends
        # When the client is too late, by the loop's clock; 0: nothing is waited for.
        self.due = self.loop.time() + self.patience

    def refuse(self, error: ProtocolError) -> None:
        """Answers with a refusal, where no earlier request waits for its answer, and ends the connection."""
        raise NotImplementedError

    def begin(self) -> None:
        """A head has come: `url`, `headers`, and what the parser knows. Sets `left`, the bytes of its body."""
        raise NotImplementedError

    @property
    def own(self) -> int:
        """Bytes of this connection among those that are arriving."""
        return self.counted + len(self._behind)

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Flow(transport)

    def data_received(self, data: bytes) -> None:
        if self._deaf or self.transport.is_closing():
            return
        turns, share = self.turns, self.share
        if share.turn != turns.number:
            turns.renew(share, self.loop.time())
        if self._behind or self.busy or self._is_chunked or share.left <= 0 or turns.left <= 0:
            self._keep(data)
            return
        turns.left -= PACKET
        share.left -= PACKET
        size = len(data)
        begins = self._stage == BETWEEN and data.startswith(b"POST ")
        if (begins or size <= self.left) and size <= self.head_limit and size <= TURN:
            taken = size if begins and self.recognised(data) else self._fed(data)
        else:
            taken = self._parse(data)
        if taken < size:
            self._keep(data[taken:])
        if (turns.left < LOW or share.left < EACH // 2) and not turns.begun:
            turns.begin(self.loop)

    def is_of(self, tenant: str | None) -> None:
        """Says whose requests come here, as far as the last one tells. None: those of several, through a proxy."""
        if self.share.of != tenant:
            self.share = self.turns.of(tenant)

    def recognised(self, packet: bytes) -> bool:
        """Takes a packet that begins with a POST, if all of it is known without the parser. False: parse it."""
        return False

    def parsed(self, packet: bytes) -> None:
        """The parser has taken a packet as it came."""

    def _fed(self, data: bytes) -> int:
        """Gives a packet to the parser as it came. Returns how much of it was taken."""
        taken = len(data)
        self._at_once = 1
        try:
            self.parser.feed_data(data)
        except HttpParserError as error:
            taken = self._stopped(data, error)
        else:
            if self._at_once == 2:
                self.parsed(data)
        self._at_once = self._head = 0
        if self._stage == IN_HEAD and not self._deaf:
            taken = self._in_pieces(data)
        return taken

    def _stopped(self, data: bytes, error: HttpParserError) -> int:
        """The parser was stopped in a packet that it was given as it came. Returns how much of it was taken."""
        cause = error.__context__
        if self._deaf:
            return len(data)
        if isinstance(cause, _Next):
            self._new_parser()
            return data.find(_END) + len(_END) + body_length(self.cycle.scope["headers"])
        if not isinstance(cause, _Upgrade | _Chunked):
            self.failed(error)
        return len(data)

    def _in_pieces(self, data: bytes) -> int:
        """Gives a packet to the parser once more, from its beginning: nothing was done with the head in it."""
        self._new_parser()
        return self._parse(data)

    def _new_parser(self) -> None:
        self._stage = BETWEEN
        self._head = 0
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    def _keep(self, data: bytes) -> None:
        """Keeps bytes for their turn."""
        if self._deaf:
            return
        if self._behind:
            self._behind += data
        else:
            self._behind = bytearray(data)
        self.arriving.held += len(data)
        if len(self._behind) > BEHIND:
            if not self._answered and self.arriving.over(self.own):
                self._give_up()
                return
            self.flow.stop()
        self._soon()

    @property
    def _answered(self) -> bool:
        """True while the rest of a request that was answered early comes: it is parsed and thrown away, and the
        connection stays, since the answer has said so.
        """
        cycle = self.cycle
        return cycle is not None and not self.busy and cycle.response_complete and cycle.more_body

    def _give_up(self) -> None:
        """Refuses what this client sends, since there is no room for it."""
        if not self.busy:
            self.refuse(TooManyPending("No more can be kept of what is sent."))
            return
        # It was not answered, so it was not done; the connection ends with the answer that is due.
        self.cycle.keep_alive = False
        self.deafen()

    def deafen(self) -> None:
        """Throws away what comes from now on. It is still read, since a client that leaves would else go unnoticed."""
        self._deaf = True
        self._drop()
        self.flow.go_on()
        if not self.flow.write_paused:
            self.flow.resume_reading()  # a handler that did not want the rest of its request may have left it paused

    def _drop(self) -> None:
        self.arriving.held -= len(self._behind)
        self._behind = b""

    @property
    def _is_chunked(self) -> bool:
        """True while a body comes of which is not known how long it is."""
        return self._stage == IN_BODY and not self.left

    def _soon(self) -> None:
        if not self._turn and not self.busy:
            self._turn = True
            self.turns.ask(self, first=self._stage == BETWEEN and self._behind.startswith(self.first))

    def go_on(self) -> int:
        """A turn: the parser is given some of what waits. Returns how many lines of a chunked body that were."""
        self._turn = False
        if self.busy or self._deaf or self.transport.is_closing():
            return 0
        behind = self._behind
        taken = len(behind) if self._is_known(behind) else self._parse(behind, LINES)
        if self._behind is not behind:
            return self._lines  # it was refused
        assert isinstance(behind, bytearray) or not taken
        if taken:
            del behind[:taken]  # type: ignore[union-attr]
            self.arriving.held -= taken
        if not behind:
            self._behind = b""
        elif taken:
            self._soon()
        if len(self._behind) <= BEHIND:
            self.flow.go_on()
        return self._lines

    def _is_known(self, behind: bytes | bytearray) -> bool:
        """Takes what waits, if it is a POST that is known without the parser."""
        if self._stage != BETWEEN or not behind.startswith(b"POST ") or len(behind) > self.head_limit:
            return False
        self._lines = 0
        return self.recognised(bytes(behind))

    def parse_on(self) -> None:
        """The answer has gone out, and the connection stays: the next request may come."""
        self.busy = False
        if self._behind:
            self._soon()

    def _parse(self, data: bytes | bytearray, lines: int = 0) -> int:
        """Gives the parser up to TURN bytes, and none behind a request that has come whole; of a chunked body so many
        `lines`. Returns how many bytes.
        """
        at, size = 0, len(data)
        end = size if size < TURN else TURN
        self._lines = 0
        while at < end:
            left = self.left
            if left:
                to = at + left
                if to > end:
                    to = end
            else:
                most = self.head_limit
                if self._stage == IN_BODY:
                    if self._lines >= lines:
                        break
                    most = min(most, SLICE)
                    self._lines += data.count(b"\n", at, at + most)
                to = data.find(_END, at, at + most) + 4
                if to < 4:
                    to = _uncut(data, at, min(end, at + most))
                    if to == at:
                        break
            try:
                self.parser.feed_data(data[at:to])
            except HttpParserUpgrade:
                self.refuse(MalformedHttp())  # of CONNECT, which has been refused
            except HttpParserError as error:
                if not isinstance(error.__context__, _Upgrade) or not self._without_upgrade():
                    self.failed(error)
            # Counts heads, and all else that is not the body: trailers, and extensions of chunks.
            head = self._head
            if head == WHOLE:
                self._head = 0
            else:
                self._head = head = head + to - at
                if head > self.head_limit:
                    self.refuse(HeadTooLarge(f"At most {self.head_limit} bytes."))
            if self._deaf:
                return size
            at = to
            if self.busy:
                break
        return at

    def failed(self, error: HttpParserError) -> None:
        """The parser has not taken what came, or something here has failed while it called."""
        raise NotImplementedError

    def _without_upgrade(self) -> bool:
        """Ignores that the client would like another protocol (RFC 9110 §7.8). The parser has no way to: it takes what
        follows for that protocol. So another one is given the head without that wish. False: it sees the wish still.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version()
        head = without_upgrade(method, self.url, version, self.headers)
        self._new_parser()
        try:
            self.parser.feed_data(head)
        except HttpParserCallbackError as error:
            if isinstance(error.__context__, _Upgrade):
                return False
            self.failed(error)
        return True

    def on_message_begin(self) -> None:
        """uvicorn's own, without making a scope, which may not be needed."""
        if self._at_once:
            if self._at_once == 2:
                raise _Next
            self._at_once = 2
        self.url = b""
        self.headers = []
        self._stage = IN_HEAD
        self._head = 0
        self.due = self.loop.time() + self.patience

    def on_header(self, name: bytes, value: bytes) -> None:
        """uvicorn's own, which looks for one of them at each. The blanks behind a value are none of it (RFC 9110 §5.5):
        the parser takes away only those before.
        """
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            raise _Upgrade
        if self._at_once and any(name == b"transfer-encoding" for name, _ in self.headers):
            raise _Chunked
        self._stage = IN_BODY
        self._head = WHOLE
        self.begin()

    def count(self, size: int) -> None:
        """Adds to the bytes of bodies that are kept."""
        self.counted += size
        self.arriving.held += size

    def passed(self, size: int) -> None:
        """Takes from the bytes of bodies that are kept."""
        self.count(-min(size, self.counted))

    def connection_lost(self, exc: Exception | None) -> None:
        self._drop()
        self.passed(self.counted)
        super().connection_lost(exc)


def _uncut(data: bytes | bytearray, at: int, end: int) -> int:
    """The place to cut bytes that hold no end: before bytes that may begin one, whose rest is to come."""
    for length in (3, 2, 1):
        if data.endswith(_END[:length], at, end):
            return end - length
    return end
