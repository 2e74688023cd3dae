"""The gate: asked once for each request, before anything else is done with it.

A credential that is remembered is let in or refused without waiting. For any other, a verifier may have to be awaited.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from hashlib import sha256
from typing import Final, Protocol
from urllib.parse import unquote_to_bytes

from gateway.asgi import Scope
from gateway.auth.errors import (
    CredentialMalformed,
    CredentialMissing,
    ScopeMissing,
    TokenExpired,
    TokenInvalid,
    WrongStream,
)
from gateway.auth.principal import ANONYMOUS, NOBODY, PUBLIC, Principal
from gateway.auth.rules import Need, may_reach, needed
from gateway.protocol.errors import ProtocolError
from gateway.protocol.fields import GivenHeaders
from gateway.protocol.target import Target

PRINCIPAL: Final = "run_gateway.principal"
"""The key under which an ASGI scope holds its Principal, once the gate has let the request in."""

MAX_TOKEN: Final = 8 << 10  # bytes
# What a token is made of (RFC 6750, §2.1).
_TOKEN: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/="
MOST_VERIFIED: Final = 10_000  # tokens whose signature need not be checked again


Pending = Callable[[], Awaitable[Principal]]
"""Asks the database or an issuer who makes a request. Raises what `Gate.admit` raises."""


class Admit(Protocol):
    """`Gate.admit`."""

    def __call__(self, method: str, target: Target, headers: GivenHeaders, query: bytes, /) -> Principal | Pending: ...


class Find(Protocol):
    """The owner of the secret that has this SHA-256 digest; None if there is none."""

    def __call__(self, digest: bytes) -> Principal | None: ...


class Verifier(Protocol):
    """Verifies one kind of signed tokens. Whenever it trusts other keys than before, the gate has to `forget`."""

    def takes(self, token: str) -> bool:
        """True if a token looks like one of this kind."""
        ...

    async def verify(self, token: str, digest: bytes) -> Principal:
        """The token's bearer. Raises TokenInvalid, TokenExpired; IssuerUnavailable when it cannot be verified now."""
        ...


class Gate:
    """Lets requests in or refuses them. `find` knows the keys; `now` gives Unix seconds. `public`: what needs no
    credential, by method, target and query.
    """

    def __init__(
        self,
        find: Find | None,
        verifiers: list[Verifier],
        now: Callable[[], float],
        public: Callable[[str, Target, bytes], bool] = lambda *_: False,
    ) -> None:
        self._find = find
        self._verifiers = verifiers
        self._now = now
        self._public = public
        self._verified: OrderedDict[bytes, Principal] = OrderedDict()

    def admit(self, method: str, target: Target, headers: GivenHeaders, query: bytes) -> Principal | Pending:
        """The principal of a request that is allowed; or a coroutine function that finds it, for a token that is not
        known yet.

        Raises what the table of refusals has, and so does the coroutine: CredentialMissing and its like (401),
        ScopeMissing and WrongStream (403), RouteNotFound (404), MethodNotAllowed (405).
        """
        need = needed(method, target)
        if need in ("nothing", "own"):
            return NOBODY
        try:
            token, in_url = token_of(headers, query)
        except CredentialMissing:
            if need in ("optional", "each"):
                return NOBODY
            if self._public(method, target, query):
                return PUBLIC
            raise
        principal = self._remembered(sha256(token).digest())
        if principal is None:
            return partial(self._verify, token, in_url, need, method, target)
        return self._let_in(principal, in_url, need, method, target)

    def forget(self) -> None:
        """Forgets all verified tokens, because other keys are trusted than before."""
        self._verified.clear()

    async def _verify(
        self, token: bytes, in_url: bool, need: Need | ProtocolError, method: str, target: Target
    ) -> Principal:
        text = token.decode("ascii")
        verifier = next((verifier for verifier in self._verifiers if verifier.takes(text)), None)
        if verifier is None:
            raise TokenInvalid
        digest = sha256(token).digest()
        principal = await verifier.verify(text, digest)
        self._verified[digest] = principal
        if len(self._verified) > MOST_VERIFIED:
            self._verified.popitem(last=False)
        return self._let_in(principal, in_url, need, method, target)

    def _let_in(
        self, principal: Principal, in_url: bool, need: Need | ProtocolError, method: str, target: Target
    ) -> Principal:
        if in_url and principal.stream is None:
            # Addresses are kept in histories and logs: only what is good for one stream, and not for long, may be
            # there.
            raise TokenInvalid("Only a run's token may be in an address.")
        if principal.expires is not None and principal.expires <= self._now():
            raise TokenExpired
        if isinstance(need, ProtocolError):
            raise need  # only now: a client without a credential learns nothing of routes
        if need not in ("optional", "each"):
            _check(principal, need, method, target)
        return principal

    def _remembered(self, digest: bytes) -> Principal | None:
        principal = None if self._find is None else self._find(digest)
        if principal is None:
            principal = self._verified.get(digest)
            if principal is not None:
                self._verified.move_to_end(digest)
        return principal


def check_target(principal: Principal, method: str, target: Target) -> None:
    """Checks that a principal who was let in may do this to another target than the request's own.

    Raises ScopeMissing, WrongStream, RouteNotFound, MethodNotAllowed.
    """
    need = needed(method, target)
    if isinstance(need, ProtocolError):
        raise need
    _check(principal, need, method, target)


def _check(principal: Principal, need: Need, method: str, target: Target) -> None:
    if need not in principal.scopes:
        raise ScopeMissing(need)
    if not may_reach(principal, method, target):
        raise WrongStream


def token_of(headers: GivenHeaders, query: bytes) -> tuple[bytes, bool]:
    """A request's token, and whether it is in the URL, for clients that cannot set a header.

    Raises CredentialMissing, CredentialMalformed.
    """
    in_header, in_query = _in_header(headers), _in_query(query) if query else None
    if in_header is not None:
        if in_query is not None:
            raise CredentialMalformed("Authorization and token= are both there.")  # RFC 6750, §2
        return in_header, False
    if in_query is None:
        raise CredentialMissing("It goes into the header Authorization: Bearer.")
    return in_query, True


def _in_header(headers: GivenHeaders) -> bytes | None:
    if isinstance(headers, dict):
        value = headers.get(b"authorization")
    else:
        values = [value for name, value in headers if name == b"authorization"]
        if len(values) > 1:
            raise CredentialMalformed("There is more than one Authorization header.")
        value = values[0] if values else None
    if value is None:
        return None
    scheme, _, token = value.partition(b" ")
    token = token.strip(b" ")
    if scheme.lower() != b"bearer" or not _is_token(token):
        raise CredentialMalformed("Authorization must be Bearer and a token.")
    return token


def _in_query(query: bytes) -> bytes | None:
    if b"token=" not in query:
        return None
    found = [field[6:] for field in query.split(b"&") if field.startswith(b"token=")]
    if not found:
        return None
    token = unquote_to_bytes(found[0])
    if len(found) > 1 or not _is_token(token):
        raise CredentialMalformed("token must be there once, and be one.")
    return token


def _is_token(text: bytes) -> bool:
    return 0 < len(text) <= MAX_TOKEN and not text.translate(None, _TOKEN)


def principal_of(scope: Scope) -> Principal:
    """The principal of a request. A request that has not passed the gate has none: asking is a defect."""
    principal = scope[PRINCIPAL]
    assert isinstance(principal, Principal)
    return principal


def check_stream(principal: Principal, stream_id: int) -> None:
    """Raises WrongStream for a credential that was made for an earlier stream at the path where this one is now."""
    if principal.stream_id is not None and principal.stream_id != stream_id:
        raise WrongStream("It was made for an earlier stream at this path.")


def let_in(scope: Scope, principal: Principal = ANONYMOUS) -> None:
    """Notes who makes the request."""
    scope[PRINCIPAL] = principal
