"""The gate: asked once for each request, before anything else is done with it.

`known` answers from memory alone, for the fast path of an append; `admit` may have to ask others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Final, Protocol

from gateway.asgi import Scope, target_of
from gateway.auth import bearer
from gateway.auth.errors import (
    CredentialMalformed,
    CredentialMissing,
    ScopeMissing,
    TokenExpired,
    TokenInvalid,
    WrongStream,
)
from gateway.auth.principal import ANONYMOUS, NOBODY, Principal
from gateway.auth.rules import asked
from gateway.protocol.errors import ProtocolError
from gateway.protocol.target import Target

PRINCIPAL: Final = "run_gateway.principal"
"""The key under which an ASGI scope holds its Principal, once the gate has let the request in."""

MOST_VERIFIED: Final = 10_000  # tokens whose signature need not be checked again


class Find(Protocol):
    """The owner of the secret that has this SHA-256 digest; None if there is none."""

    def __call__(self, digest: bytes) -> Principal | None: ...


class Verifier(Protocol):
    """Verifies one kind of signed tokens. Whenever it trusts other keys than before, the gate has to `forget`."""

    def takes(self, token: str) -> bool:
        """Whether a token looks like one of this kind."""
        ...

    async def verify(self, token: str, digest: bytes) -> Principal:
        """The token's bearer. Raises TokenInvalid, TokenExpired; IssuerUnavailable when it cannot be verified now."""
        ...


class Gate:
    """Lets requests in or refuses them. `find` knows the keys; `now` gives Unix seconds."""

    def __init__(self, find: Find | None, verifiers: list[Verifier], now: Callable[[], float]) -> None:
        self._find = find
        self._verifiers = verifiers
        self._now = now
        self._verified: OrderedDict[bytes, Principal] = OrderedDict()

    def known(self, headers: Mapping[bytes, bytes], target: Target) -> Principal | None:
        """Who appends to this target, if that is known without asking anybody, and if they may. None: ask `admit`.

        `headers`: of a request without a query, none of them repeated.
        """
        shown = headers.get(b"authorization", b"")
        if not shown.startswith(b"Bearer "):
            return None
        principal = self._remembered(sha256(shown[7:]).digest())
        if principal is None or "write" not in principal.scopes:
            return None
        if principal.bound and not principal.reaches(target.about or ""):
            return None
        if principal.expires is not None and principal.expires <= self._now():
            return None
        return principal

    async def admit(self, scope: Scope) -> Principal:
        """Who makes this request, when it is allowed.

        Raises what the table of refusals has: CredentialMissing and its like (401), ScopeMissing and WrongStream (403),
        RouteNotFound (404), MethodNotAllowed (405).
        """
        try:
            need, stream, in_body = asked(scope["method"], target_of(scope))
        except ProtocolError:
            await self._identify(scope)  # who has no credential is told so, and not which routes there are
            raise
        if need in ("nothing", "own"):
            return NOBODY
        principal = await self._identify(scope)
        if need not in principal.scopes:
            raise ScopeMissing(need)
        if not (principal.reaches(stream) if stream is not None else in_body or not principal.bound):
            raise WrongStream
        return principal

    def forget(self) -> None:
        """Has every signature checked again, because other keys are trusted than before."""
        self._verified.clear()

    async def _identify(self, scope: Scope) -> Principal:
        header, query = bearer.in_header(scope["headers"]), bearer.in_query(scope["query_string"])
        if header is not None and query is not None:
            raise CredentialMalformed("Authorization and token= are both there.")  # RFC 6750, §2
        token = header or query
        if token is None:
            raise CredentialMissing("It goes into the header Authorization: Bearer.")
        principal = await self._verify(token, in_url=header is None)
        if principal.expires is not None and principal.expires <= self._now():
            raise TokenExpired
        return principal

    async def _verify(self, token: bytes, *, in_url: bool) -> Principal:
        digest = sha256(token).digest()
        principal = self._remembered(digest)
        if principal is None:
            text = token.decode("ascii")
            verifier = next((verifier for verifier in self._verifiers if verifier.takes(text)), None)
            if verifier is None:
                raise TokenInvalid
            principal = await verifier.verify(text, digest)
            self._verified[digest] = principal
            if len(self._verified) > MOST_VERIFIED:
                self._verified.popitem(last=False)
        if in_url and principal.stream is None:
            # Addresses are kept in histories and logs: only what is good for one stream, and not for long, may be
            # there.
            raise TokenInvalid("Only a run's token may be in an address.")
        return principal

    def _remembered(self, digest: bytes) -> Principal | None:
        principal = None if self._find is None else self._find(digest)
        if principal is None:
            principal = self._verified.get(digest)
            if principal is not None:
                self._verified.move_to_end(digest)
        return principal


def principal_of(scope: Scope) -> Principal:
    """Who makes the request. It is a defect to ask for one that has not passed the gate: there is no default."""
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
