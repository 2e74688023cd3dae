"""What is refused here: rows that cannot be meant, and answers that cannot be had."""

from __future__ import annotations

from gateway.protocol.errors import ProtocolError


class BadRow(Exception):
    """A row of the relay cannot be used; the message is one sentence that names the row and the field."""


class NoRecording(ProtocolError):
    """Nothing is being recorded under this key."""

    status = 404
    type = "no_recording"
