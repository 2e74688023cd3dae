"""Refusals of the relay: rows that cannot be meant, and answers that cannot be had."""

from __future__ import annotations

from gateway.protocol.errors import ProtocolError


class BadRow(Exception):
    """A row of the relay cannot be used; the message is one sentence that names the row and the field."""


class TooManyRecordings(ProtocolError):
    """This Machine records as many answers as its limit allows: try again. The upstream was not asked."""

    status = 503
    type = "too_many_recordings"


class NoRecording(ProtocolError):
    """Nothing is being recorded under this key."""

    status = 404
    type = "no_recording"
