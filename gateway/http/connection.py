"""uvicorn's protocol class for one server, made from its settings. What is not a request is refused like any other."""

from __future__ import annotations

from typing import ClassVar, Final

from gateway.asgi import Scope
from gateway.auth.rules import ours
from gateway.http import responses
from gateway.http.bodies import Bodies
from gateway.http.cors import Common
from gateway.http.fast_append import ALONE, Answers, PostProtocol
from gateway.protocol.errors import ProtocolError
from gateway.protocol.target import Target
from gateway.wire.intake import Turns
from gateway.wire.outflow import Outflow
from gateway.wire.transport import DirectProtocol

PROBES: Final = ("/health", "/ready")
"""Paths that load balancers ask for. A Machine without room for more connections answers them still, and so does one
to which thousands come at one time: it is not replaced.
"""
_BEGIN: Final = tuple(f"{method} {path} HTTP/1.".encode() for method in ("GET", "HEAD") for path in PROBES)


def connections(
    *,
    request_timeout: float,
    send_timeout: float,
    max_head: int,
    max_connections: int,
    common: Common,
    bodies: Bodies,
    answers: Answers = ALONE,
    outflow: Outflow | None = None,
) -> type[DirectProtocol]:
    """The class of this server's connections.

    `request_timeout`: seconds that a request may take to arrive. `send_timeout`: seconds in which a client must read
    some of what waits for it. `max_head`: bytes of a request's line and headers. `max_connections`: open at one time.
    `common`: the headers of an answer to what is no request. `bodies`: the account of bodies that are arriving.
    `answers`: what sends several answers at once. `outflow`: what sends long ones.
    """

    sends, flows = answers, outflow or Outflow()

    class Connection(PostProtocol):
        __slots__ = ()

        patience = request_timeout
        send_patience = send_timeout
        head_limit = max_head
        most = max_connections
        always = PROBES
        first = _BEGIN
        spare: ClassVar[dict[DirectProtocol, None]] = {}
        arriving = bodies
        answers = sends
        turns: ClassVar[Turns] = Turns()
        outflow = flows

        def refusal(self, error: ProtocolError, scope: Scope | None = None) -> tuple[int, bytes, bytes] | None:
            if scope is not None and responses.comes_back(scope, error) and not ours(Target.of(scope["path"])):
                # Behind the gateway it may be a relayed answer: its client would take an empty one for the whole. Every
                # client, an EventSource too, comes back from a connection that is closed.
                responses.refused[error.type] += 1
                return None
            return responses.at_the_door(error, common, scope)

    return Connection
