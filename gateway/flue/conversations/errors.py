"""The reasons why a reader is not answered from rows."""

from __future__ import annotations

from gateway.protocol.errors import StreamNotFound


class Gone(StreamNotFound):
    """There is no such stream, or some of its rows are gone."""


class Unreadable(StreamNotFound):
    """These rows are not all as Flue 2.1.0 writes them, or too many: the app has to say what it makes of them."""
