"""POSTs that append, answered past ASGI: without a scope, a cycle and a task, which are half of the cost of one.

Only plain requests come this way: HTTP/1.1 with no earlier request unanswered, a stream's path without a query, no
header twice, a body that is short and whose length was given. Every other one goes to ASGI, and so does a request that
is refused before the log is asked: nothing has been done with it by then. The answers are equal, to the byte.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar, Final, Protocol
from urllib.parse import unquote

from uvicorn.config import Config

from gateway.asgi import TARGET, Headers, Scope
from gateway.auth.gate import Pending
from gateway.auth.principal import Principal
from gateway.http import responses
from gateway.http.cors import Cors
from gateway.protocol.errors import ProtocolError
from gateway.protocol.fields import GivenHeaders
from gateway.protocol.target import Target
from gateway.wire.answers import no_content, whole
from gateway.wire.heads import Head, KnownHeads, is_host
from gateway.wire.intake import IN_BODY, WHOLE
from gateway.wire.transport import DirectProtocol

MOST_BODY: Final = 32 << 10  # bytes; a longer one comes by ASGI, where it may be refused half way
MOST_URL: Final = 512  # bytes
SEEKS: Final = 256  # heads in a row that nobody has sent before, after which a connection's are not looked up

# What a path is made of, where nothing in it means something else (RFC 3986, §3.3).
_PLAIN: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@/%"


@lru_cache(maxsize=4_096)
def _target(url: bytes) -> Target | None:
    """The target of a URL. None if the URL has more than a path, or names no stream.

    Targets are kept, since a stream is appended to many times.
    """
    if url.translate(None, _PLAIN):
        return None
    target = Target.of(unquote(url.decode("ascii")))
    return None if target.stream is None or target.fault is not None else target


class _Nobody:
    """The place of the event by which uvicorn wakes a handler that waits for its request: here no handler waits."""

    def set(self) -> None:
        pass


class Post:
    """A POST that appends. It stands in for uvicorn's cycle, so it has all that the protocol class uses of a cycle.

    `stored` is the path of the stream in the log, with its tenant, which is that of the `principal`. `headers` have
    lower-case names, each of them once.
    """

    __slots__ = (
        "_connection", "_scope", "body", "disconnected", "headers", "keep_alive", "more_body",
        "principal", "response_complete", "stored", "target", "url",
    )  # fmt: skip

    message_event: Final = _Nobody()

    def __init__(
        self,
        connection: PostProtocol,
        target: Target,
        headers: dict[bytes, bytes],
        principal: Principal,
        keep_alive: bool,
    ) -> None:
        self.url = connection.url
        self.target = target
        self.stored = target.stored(principal.tenant)
        self.principal = principal
        self.headers = headers
        self.body = b""
        self.more_body = True
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False
        self._connection = connection
        self._scope: Scope | None = None

    @property
    def response_started(self) -> bool:
        return self.response_complete

    @property
    def scope(self) -> Scope:
        """The part of an ASGI scope that a refusal needs for the log."""
        if self._scope is None:
            self._scope = {
                "type": "http",
                "method": "POST",
                "path": self.target.path,
                TARGET: self.target,
                "raw_path": self.url,
                "query_string": b"",
                "headers": [*self.headers.items()],
            }
        return self._scope

    def answer(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """Sends the whole response in one write, unless there was one already."""
        if self.disconnected or self.response_complete:
            return
        self.response_complete = True
        self._connection.answer(status, headers, body, self)

    def accepted(self, offset: bytes) -> None:
        """Answers an append of which there is nothing to say but the offset behind it."""
        if self.disconnected or self.response_complete:
            return
        self.response_complete = True
        self._connection.accepted(offset, self)

    def refuse(self, error: ProtocolError) -> None:
        """A ProtocolError as the response."""
        headers, body = responses.refusal(self.scope, error)
        self.answer(error.status, headers, body)


class Door(Protocol):
    """An application's `door`, if it answers POSTs past ASGI: as `gateway.http.door`."""

    cors: Cors

    def admit(
        self, method: str, target: Target, headers: GivenHeaders, query: bytes, client: str = ""
    ) -> Principal | Pending: ...

    def take(self, post: Post) -> bool: ...


class Answers(Protocol):
    """Sends the answers of one commit at once: as `gateway.fanout.broadcast.Broadcast`."""

    def takes(self, connection: PostProtocol, data: bytes) -> bool: ...


class _Alone:
    """Each answer is sent by itself."""

    def takes(self, connection: PostProtocol, data: bytes) -> bool:
        return False


ALONE: Final = _Alone()


class PostProtocol(DirectProtocol):
    """A connection that offers POSTs to the application's `door` before it makes anything for ASGI."""

    heads: ClassVar[KnownHeads] = KnownHeads()
    answers: ClassVar[Answers] = ALONE

    __slots__ = ("_declined", "_door", "_seeks")

    def __init__(self, config: Config, *arguments: Any, **more: Any) -> None:
        super().__init__(config, *arguments, **more)
        self._door: Door | None = getattr(config.app, "door", None)
        if config.root_path or config.limit_concurrency is not None:
            self._door = None  # uvicorn's own business, which it does for ASGI alone
        self._declined = False  # the request that comes next goes to ASGI
        self._seeks = SEEKS  # heads that are looked up yet, if none of them is known: some proxies number each

    def recognised(self, packet: bytes) -> bool:
        door = self._door
        if door is None or not self._seeks or self._surplus:
            return False
        found = self.heads.find(packet)
        if found is None:
            self._seeks -= 1
            return False
        self._seeks = SEEKS
        url, head, body = found
        target = _target(url) if len(url) <= MOST_URL else None
        if target is None:
            return False
        try:
            principal = _admitted(door, target, head.headers)
        except Exception:  # noqa: BLE001  it is raised again while the parser calls, and answered there
            return False
        if principal is None:
            return False
        self.is_of(None if b"x-forwarded-for" in head.headers else principal.tenant)
        self.url = url
        self.cycle = post = Post(self, target, head.headers, principal, head.keep_alive)  # type: ignore[assignment]
        post.body = body
        post.more_body = False
        self.arrived()
        self._head = 0
        if door.take(post):
            return True
        self.busy = False
        self._declined = True
        return False

    def parsed(self, packet: bytes) -> None:
        post = self.cycle
        if isinstance(post, Post) and not post.more_body and self._seeks:
            self.heads.learn(packet, Head(post.headers, len(post.body), post.keep_alive), post.body)

    def on_headers_complete(self) -> None:
        post = self._plain()
        if post is None:
            super().on_headers_complete()
        else:
            self._stage = IN_BODY
            self._head = WHOLE
            self.cycle = post  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        post = self.cycle
        if not isinstance(post, Post) or self._over:
            super().on_body(body)
            return
        post.body += body
        self._head = WHOLE
        self.left = left = self.left - len(body)
        if left:  # bytes that come with a request's end are not kept for anything that is on its way
            self.count(len(body))
            if self.arriving.over(self.own):
                self._to_asgi(post)

    def on_message_complete(self) -> None:
        post = self.cycle
        if not isinstance(post, Post) or self._over:
            super().on_message_complete()
            return
        post.more_body = False
        self.arrived()
        assert self._door is not None
        if not self._door.take(post):
            self._to_asgi(post)

    def answer(self, status: int, headers: Headers, body: bytes, post: Post) -> None:
        """Writes a whole response."""
        assert self._door is not None
        head, keep_alive = responses.lines(status, headers, self._door.cors.common(post.headers), body), post.keep_alive
        data = whole(status, self.server_state.default_headers, head, body, keep_alive)
        if not keep_alive:
            self.transport.write(data)
            self.transport.close()
        else:
            self._send(data)
        self.on_response_complete()

    def accepted(self, offset: bytes, post: Post) -> None:
        """Writes the answer to a plain append: 204, and the offset behind it."""
        assert self._door is not None
        if not post.keep_alive:
            self.answer(204, [(b"stream-next-offset", offset)], b"", post)
            return
        self._send(no_content(self.server_state.default_headers, offset, self._door.cors.common(post.headers).lines))
        self.on_response_complete()

    def _send(self, data: bytes) -> None:
        """Sends an answer behind which the connection stays: with others, unless something else waits in it."""
        if self._ending or self._deaf or self.flow.write_paused or not self.answers.takes(self, data):
            self.transport.write(data)

    def spill(self, rest: memoryview) -> None:
        """Takes what the socket had no room for, of an answer that was sent with others."""
        self.transport.write(rest)

    def fail(self) -> None:
        """Ends the connection: how much of an answer was sent is not known."""
        self.transport.abort()

    def _plain(self) -> Post | None:
        """The request whose head has come, where it may be answered past ASGI."""
        if self._door is None or self.parser.get_method() != b"POST" or self._surplus:
            return None
        if self._declined:
            self._declined = False
            return None
        headers = dict(self.headers)
        keep_alive = self.parser.should_keep_alive()
        if (
            len(headers) != len(self.headers)
            or not is_host(headers.get(b"host", b"/"))
            or b"expect" in headers
            or b"upgrade" in headers
            or b"transfer-encoding" in headers
            or b"content-encoding" in headers
            or (length := int(headers.get(b"content-length", 0))) > MOST_BODY
            # By HTTP/1.1 a connection stays if nothing is said of it, and by no other version (RFC 9112 §9.3).
            or ((not keep_alive or b"connection" in headers) and self.parser.get_http_version() != "1.1")
            or len(self.url) > MOST_URL
        ):
            return None
        target = _target(self.url)
        if target is None:
            return None
        principal = _admitted(self._door, target, headers)
        if principal is None:
            return None
        self.is_of(None if b"x-forwarded-for" in headers else principal.tenant)
        self.left = length
        return Post(self, target, headers, principal, keep_alive)

    def _to_asgi(self, post: Post) -> None:
        """Hands a POST that was declined to ASGI, with as much of it as there is."""
        self.passed(self.counted)
        self.begin()
        self.cycle.keep_alive = post.keep_alive
        if post.body:
            super().on_body(post.body)
        if not post.more_body:
            super().on_message_complete()


def _admitted(door: Door, target: Target, headers: dict[bytes, bytes]) -> Principal | None:
    """The principal of the request; None: it is refused, or a database or an issuer has to be asked."""
    try:
        principal = door.admit("POST", target, headers, b"")
    except ProtocolError:
        return None
    return principal if isinstance(principal, Principal) else None
