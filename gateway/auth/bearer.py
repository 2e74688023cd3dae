"""The credential that a request carries: `Authorization: Bearer`, or `?token=` for clients that cannot set a header."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from gateway.auth.errors import CredentialMalformed
from gateway.protocol.fields import RawHeaders

MAX_TOKEN: Final = 8 << 10  # bytes
_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/=-]+")  # RFC 6750, §2.1


def in_header(headers: RawHeaders) -> bytes | None:
    """The token of the Authorization header; None without one. Raises CredentialMalformed."""
    found: bytes | None = None
    for name, value in headers:
        if name == b"authorization":
            if found is not None:
                raise CredentialMalformed("There is more than one Authorization header.")
            found = value
    if found is None:
        return None
    scheme, _, token = found.partition(b" ")
    token = token.strip(b" ")
    if scheme.lower() != b"bearer" or len(token) > MAX_TOKEN or not _TOKEN.fullmatch(token):
        raise CredentialMalformed("Authorization must be Bearer and a token.")
    return token


def in_query(query: bytes) -> bytes | None:
    """The token of the query; None without one. Raises CredentialMalformed."""
    if b"token=" not in query:
        return None
    found = [field[6:] for field in query.split(b"&") if field.startswith(b"token=")]
    if not found:
        return None
    token = unquote_to_bytes(found[0])
    if len(found) > 1 or len(token) > MAX_TOKEN or not _TOKEN.fullmatch(token):
        raise CredentialMalformed("token must be there once, and be one.")
    return token
