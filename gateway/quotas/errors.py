"""Refusals because a quota is used up: a part of the tree of `gateway.protocol.errors`."""

from __future__ import annotations

from gateway.protocol.errors import ProtocolError


class TooManyAppends(ProtocolError):
    """This credential has made as many appends as it may in a second."""

    status = 429
    type = "too_many_appends"


class TooManyCreates(ProtocolError):
    """This credential has made as many streams as it may in a second."""

    status = 429
    type = "too_many_creates"


class TooManyStreams(ProtocolError):
    """This credential has as many live reads open on this Machine as it may."""

    status = 429
    type = "too_many_streams"


class TooManyRequests(ProtocolError):
    """This client address has as many requests open on this Machine as it may."""

    status = 429
    type = "too_many_requests"


class TooManyRuns(ProtocolError):
    """The tenant has as many runs as it may: delete some."""

    status = 429
    type = "too_many_runs"
