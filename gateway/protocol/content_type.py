"""Content types as clients may give them: one rule, for PUT, POST, `POST /runs` and run_gateway.create alike.

A type is stored, and stands in the headers of every later answer. So it is a media type by its form, in ASCII, and
short.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.protocol.errors import InvalidRequest

MAX_CONTENT_TYPE: Final = 255  # characters

_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED: Final = r'"(?:[\t !#-\[\]-~]|\\[\t -~])*"'
# RFC 9110 §8.3.1; like there, a parameter may be missing between two semicolons.
CONTENT_TYPE: Final = rf"^{_NAME}/{_NAME}(?:[\t ]*;(?:[\t ]*{_NAME}=(?:{_NAME}|{_QUOTED}))?)*$"
"""As a regular expression of Python, JSON Schema and Postgres; it says nothing of the length."""

_VALID: Final = re.compile(CONTENT_TYPE[:-1] + r"\Z")


def check_content_type(text: str) -> str:
    """A content type, when it may be one. Raises InvalidRequest."""
    if len(text) > MAX_CONTENT_TYPE:
        raise InvalidRequest(f"Content-Type has more than {MAX_CONTENT_TYPE} characters.")
    if _VALID.match(text) is None:
        raise InvalidRequest("Content-Type must be a media type, such as application/json.")
    return text


def content_type_header(text: str) -> bytes:
    """A stream's content type as the value of a header: valid also where an earlier version stored one that is not."""
    text = text.strip("\t ")  # which earlier versions have kept
    return text.encode() if len(text) <= MAX_CONTENT_TYPE and _VALID.match(text) else b"application/octet-stream"
