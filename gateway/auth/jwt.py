"""JWTs: signed with one secret (HS256), or by an issuer whose public keys are at an address (RS256, ES256, EdDSA).

The key determines the algorithm, never the token. So no token can have a public key used as a secret, or be accepted
with `none` for a signature.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import jwt
from jwt import exceptions
from jwt.algorithms import HMACAlgorithm

from gateway.auth.claims import ClaimNames, principal_of_claims
from gateway.auth.errors import TokenExpired, TokenInvalid
from gateway.auth.principal import Principal

SHORTEST_SECRET: Final = 32  # bytes, as long as the hash (RFC 7518, §3.2)

_WRONG: Final[dict[type[Exception], str]] = {
    exceptions.InvalidAudienceError: "It is for another audience.",
    exceptions.InvalidIssuerError: "It is of another issuer.",
    exceptions.ImmatureSignatureError: "It is not valid yet.",
    exceptions.MissingRequiredClaimError: "It must have exp, and the issuer and audience that are asked for.",
}


@dataclass(frozen=True, slots=True)
class Key:
    """A key for verifying, and the one algorithm that it is for."""

    key: Any = field(repr=False)
    algorithm: str


# The library also lets through what Python's own parsers raise, for example for a header of a thousand brackets.
_UNREADABLE: Final = (exceptions.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)


class KeySource(Protocol):
    """A source of keys, by the header of a token."""

    async def find(self, kid: str | None) -> Key | None:
        """The key of that name; without a name, the only key. Raises IssuerUnavailable when it cannot be known."""
        ...


class Secret:
    """The one secret of HS256. Raises ValueError, with words that follow the setting's name, for a bad one."""

    def __init__(self, secret: str) -> None:
        if len(secret.encode()) < SHORTEST_SECRET:
            raise ValueError(f"must be at least {SHORTEST_SECRET} bytes")
        try:
            self._key = Key(HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret), "HS256")
        except exceptions.InvalidKeyError:
            raise ValueError("must be a secret, and no public key") from None

    async def find(self, kid: str | None) -> Key | None:
        return self._key


class Jwts:
    """Verifies JWTs. `leeway`: seconds that clocks may differ."""

    def __init__(
        self, keys: KeySource, names: ClaimNames, *, issuer: str | None, audience: str | None, leeway: float
    ) -> None:
        self._keys = keys
        self._names = names
        self._issuer = issuer
        self._audience = audience
        self._leeway = leeway

    def takes(self, token: str) -> bool:
        """True if a token has a JWT's three parts."""
        return token.count(".") == 2

    async def verify(self, token: str, digest: bytes) -> Principal:
        """The bearer of a token. Raises TokenInvalid, TokenExpired, IssuerUnavailable."""
        try:
            kid = jwt.get_unverified_header(token).get("kid")
        except _UNREADABLE:
            raise TokenInvalid from None
        key = await self._keys.find(kid)
        if key is None:
            raise TokenInvalid
        try:
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                issuer=self._issuer,
                audience=self._audience,
                leeway=self._leeway,
                options={"require": ["exp"]},
            )
        except exceptions.ExpiredSignatureError:
            raise TokenExpired from None
        except _UNREADABLE as error:
            raise TokenInvalid(_WRONG.get(type(error))) from None
        return principal_of_claims(claims, self._names, leeway=self._leeway)
