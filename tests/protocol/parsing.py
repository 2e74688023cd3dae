"""Requests as the tests parse them: whole."""

from __future__ import annotations

from gateway.protocol.append import AppendRequest, append_in_pieces
from gateway.protocol.fields import GivenHeaders
from gateway.protocol.json_body import at_once


def parse_append(path: str, headers: GivenHeaders, body: bytes, most: int | None = None) -> AppendRequest:
    return at_once(append_in_pieces(path, headers, body, most))
