"""base64url without padding (RFC 4648, §5; RFC 7515, §2): bytes that can stand in an address or a token."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode


def encode(data: bytes) -> str:
    """The text of `data`, without `=` at its end."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Decodes what `encode` returned. Raises ValueError for any other text."""
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
