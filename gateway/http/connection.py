"""The protocol class of a server: refusals in the one shape, also where there is no request to answer."""

from __future__ import annotations

from gateway.fanout.transport import DirectProtocol
from gateway.http import responses
from gateway.http.cors import Common
from gateway.protocol.errors import ProtocolError


def connections(request_timeout: float, common: Common) -> type[DirectProtocol]:
    """The class of this server's connections, where a request has so many seconds to arrive. `common`: what the answer
    carries to what is no request."""

    class Connection(DirectProtocol):
        __slots__ = ()

        patience = request_timeout

        def refusal(self, error: ProtocolError) -> tuple[int, bytes, bytes]:
            return responses.without_request(error, common)

    return Connection
