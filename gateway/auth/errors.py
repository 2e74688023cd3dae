"""Refusals of credentials: a part of the tree of `gateway.protocol.errors`."""

from __future__ import annotations

from gateway.protocol.errors import Headers, ProtocolError


def _challenge(*parameters: bytes) -> Headers:
    """The header that says how to be let in, and why one was not (RFC 6750, §3)."""
    return [(b"www-authenticate", b" ".join([b"Bearer", b", ".join(parameters)]).rstrip())]


class CredentialMissing(ProtocolError):
    """A credential is required."""

    status = 401
    type = "credential_missing"

    def __init__(self, details: str | None = None) -> None:
        super().__init__(details, _challenge())  # §3.1: no error code where no credential was sent


class CredentialMalformed(ProtocolError):
    """The credential cannot be read."""

    status = 401
    type = "credential_malformed"

    def __init__(self, details: str | None = None) -> None:
        super().__init__(details, _challenge(b'error="invalid_request"'))


class TokenInvalid(ProtocolError):
    """The credential is not one of this gateway's."""

    status = 401
    type = "token_invalid"

    def __init__(self, details: str | None = None) -> None:
        super().__init__(details, _challenge(b'error="invalid_token"'))


class TokenExpired(ProtocolError):
    """The credential has expired: get another."""

    status = 401
    type = "token_expired"

    def __init__(self, details: str | None = None) -> None:
        super().__init__(details, _challenge(b'error="invalid_token"', b'error_description="expired"'))


class ScopeMissing(ProtocolError):
    """The credential is not for this."""

    status = 403
    type = "scope_missing"

    def __init__(self, scope: str) -> None:
        headers = _challenge(b'error="insufficient_scope"', b'scope="%b"' % scope.encode())
        super().__init__(f"It needs the scope {scope}.", headers)


class WrongStream(ProtocolError):
    """The credential is for other streams."""

    status = 403
    type = "wrong_stream"

    def __init__(self, details: str | None = None) -> None:
        super().__init__(details, _challenge(b'error="insufficient_scope"'))


class IssuerUnavailable(ProtocolError):
    """The keys of the token's issuer cannot be fetched, so that nobody can tell whether it is valid."""

    status = 503
    type = "issuer_unavailable"
