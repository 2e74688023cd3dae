"""Frames are told to other Machines with the news of them, so that their readers need no read of the log."""

from __future__ import annotations

import pytest

from gateway.log.appends import Entry, Waiting, asked_alone
from gateway.protocol.append import AppendRequest


def told(media_type: str, *events: bytes) -> object:
    request = AppendRequest("runs/x", media_type, list(events))
    entry = Entry(Waiting(request, lambda _: None, 0.0))
    asked = asked_alone({"runs/x": entry}, "machine", pack=True)
    assert asked is not None
    _, *arguments = asked
    return arguments[4]


def test_frames_are_told_as_they_are() -> None:
    assert told("text/event-stream", b"data: \xc3\xa4\n\n", b"data: b\r\n\r\n") == "data: ä\n\ndata: b\r\n\r\n"


@pytest.mark.parametrize("frame", [b"data: \x80\n\n", b"data: \x00\n\n", b"data: " + b"x" * 8_000 + b"\n\n"])
def test_frames_that_no_notification_holds_are_read_from_the_log(frame: bytes) -> None:
    assert told("text/event-stream", frame) is None


def test_other_bytes_are_read_from_the_log() -> None:
    assert told("application/octet-stream", b"x") is None
