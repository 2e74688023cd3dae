"""The clients that the app has answered for a conversation: only they are answered from rows. Pure.

A client is known by all that its requests say of it: its address and its headers, but for those that are known to say
something else. So credentials need not be known. Only an answer that holds the whole conversation counts: what an app
hides from a client may be anywhere. What an app's own layers add to its answers is remembered, and added
to answers from rows; an answer with headers that may be for this one alone is not remembered, nor one whose body is
another than the rows give.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from gateway.asgi import Headers, Scope

LASTS: Final = 300.0
"""Seconds for which an answer of the app's counts."""
MOST: Final = 20_000
"""Clients of conversations that are remembered: some 20 MB at most."""
NAME: Final = 320
"""Bytes of each end of an answer's body, where it names its stream."""

# What a request wants, what brought it here, and what it is called in traces.
_SAYS_NOT_WHO: Final = frozenset(
    (
        *(b"accept", b"accept-encoding", b"accept-language", b"cache-control", b"pragma", b"priority", b"te"),
        *(b"keep-alive", b"content-length", b"content-type", b"last-event-id"),
        *(b"if-none-match", b"if-modified-since", b"sec-fetch-dest", b"sec-fetch-mode", b"sec-fetch-site"),
        *(b"traceparent", b"tracestate", b"x-request-id", b"x-correlation-id", b"x-request-start"),
        *(b"x-amzn-trace-id", b"x-cloud-trace-context", b"cf-ray", b"fly-request-id", b"fly-traceparent"),
        *(b"fly-tracestate",),
    )
)
_SAYS_NOTHING: Final = frozenset(((b"connection", b"keep-alive"), (b"connection", b"close")))  # else it names headers
# Of an answer: those that each answer has of its own, and those by which an app says how all of its answers are meant.
_OWN: Final = frozenset(
    (
        *(b"content-type", b"cache-control", b"stream-next-offset", b"stream-up-to-date", b"content-length"),
        *(b"transfer-encoding", b"connection", b"keep-alive", b"date"),
    )
)
_OF_ALL: Final = re.compile(
    rb"access-control-[a-z-]+|cross-origin-[a-z-]+|content-security-policy(-report-only)?|strict-transport-security"
    rb"|vary|referrer-policy|permissions-policy|origin-agent-cluster|server|x-powered-by|x-content-type-options"
    rb"|x-frame-options|x-dns-prefetch-control|x-download-options|x-permitted-cross-domain-policies|x-xss-protection"
)
_UPDATES: Final = re.compile(rb'\[\{"type":"stream-checkpoint","incarnation":"(inc_[0-9A-Z]{26})"\},')
_HISTORY: Final = re.compile(rb'\{"v":1,"conversationId":"')
_HISTORYS_END: Final = re.compile(rb',"incarnation":"(inc_[0-9A-Z]{26})"\}\Z')
_OFFSET: Final = re.compile(rb"0{16}_([0-9]{16})")


def client(scope: Scope, conversation: bytes) -> bytes:
    """The digest of a request's client and of the conversation that it asks for."""
    told = sorted(
        header
        for header in scope["headers"]
        if header[0] not in _SAYS_NOT_WHO and (header[0], header[1].lower()) not in _SAYS_NOTHING
    )
    digest = blake2b(repr((scope["client"] and scope["client"][0], conversation, told)).encode(), digest_size=16)
    return digest.digest()


@dataclass(frozen=True, slots=True)
class Answered:
    """The app's answer to a client: the incarnation of the stream, and the headers of all of its answers."""

    incarnation: str
    headers: Headers


class Memory:
    """The answers that are remembered of all clients. `clock`: steady seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, Answered]] = OrderedDict()

    def get(self, client: bytes) -> Answered | None:
        """The app's latest answer to a client; None: there was none lately."""
        found = self._known.get(client)
        return found[1] if found is not None and self._clock() < found[0] else None

    def note(self, client: bytes, answered: Answered | None) -> None:
        """Notes that the app has just answered so; None: in another way."""
        self._known.pop(client, None)
        if answered is not None:
            self._known[client] = self._clock() + LASTS, answered
            if len(self._known) > MOST:
                self._known.popitem(last=False)

    def forget(self) -> None:
        """Forgets all answers: the database may be another one."""
        self._known.clear()


def digest(body: bytes) -> bytes:
    """The digest of a body."""
    return blake2b(body, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Claim:
    """The claim of an answer: its incarnation, the position up to which it goes, and the `digest` of its body. `last`:
    there is nothing behind that.
    """

    answered: Answered
    end: int
    body: bytes
    last: bool = True


class Answer:
    """An answer of the app's to a plain read, as it passes by."""

    def __init__(self, status: int, headers: Headers) -> None:
        named = {name.lower(): value for name, value in headers}
        offset = _OFFSET.fullmatch(named.get(b"stream-next-offset", b""))
        self._end = 0 if offset is None else int(offset[1]) + 1
        self._is_last = named.get(b"stream-up-to-date") == b"true"
        self._headers = [(name.lower(), value) for name, value in headers if name.lower() not in _OWN]
        self.plain = (
            status == 200
            and named.get(b"content-type") == b"application/json"
            and named.get(b"cache-control") == b"no-store"
            and offset is not None
            and all(_OF_ALL.fullmatch(name) for name, _ in self._headers)
        )
        """Whether it may say something at all."""
        self._digest = blake2b(digest_size=16)
        self._first = b""
        self._last = b""

    def piece(self, data: bytes) -> None:
        """The next piece of its body."""
        self._digest.update(data)
        if len(self._first) < NAME:
            self._first += data[:NAME]
        self._last = (self._last + data[-NAME:])[-NAME:]

    def claim(self) -> Claim | None:
        """The claim of an answer that has come whole; None if it makes none, as one that says that nothing is new."""
        named = _UPDATES.match(self._first)
        if named is None and _HISTORY.match(self._first):
            named = _HISTORYS_END.search(self._last)
        if named is None or not self.plain:
            return None
        return Claim(Answered(named[1].decode(), self._headers), self._end, self._digest.digest(), self._is_last)
