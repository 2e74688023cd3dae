"""Refusals of owned conversations: rows that cannot be meant, and requests whose owner cannot be reached."""

from __future__ import annotations

from gateway.protocol.errors import ProtocolError


class BadOwned(Exception):
    """GATEWAY_OWNED cannot be used; the message is what follows `GATEWAY_OWNED=`."""


class AmbiguousPath(ProtocolError):
    """Applications differ in how they read the dots or slashes of this path, and so in which conversation it names."""

    status = 400
    type = "ambiguous_path"


class OwnerSilent(ProtocolError):
    """The Machine that owns this conversation does not answer, and no application was sent anything: try again."""

    status = 503
    type = "owner_silent"


class OwnerMoved(ProtocolError):
    """The conversation has moved to another Machine while this was arriving; no application was sent it: try again."""

    status = 503
    type = "owner_moved"


class NoOwner(ProtocolError):
    """No Machine can take this conversation now: they are ending, or their applications are away."""

    status = 503
    type = "no_owner"


class OwnerLost(ProtocolError):
    """The Machine that owned this conversation was lost during the request, which may have been carried out."""

    status = 502
    type = "owner_lost"


class NotOwner(ProtocolError):
    """Another gateway has sent a request here for a conversation that this Machine does not own."""

    status = 421
    type = "not_owner"
