"""The credential that a request carries: `Authorization: Bearer`, or `?token=` for clients that cannot set a header."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl

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
    try:
        found = [value for name, value in parse_qsl(query.decode("ascii"), keep_blank_values=True) if name == "token"]
    except ValueError:
        raise CredentialMalformed("The query string cannot be read.") from None
    if not found:
        return None
    token = found[0].encode()
    if len(found) > 1 or len(token) > MAX_TOKEN or not _TOKEN.fullmatch(token):
        raise CredentialMalformed("token must be there once, and be one.")
    return token
