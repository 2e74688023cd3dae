"""Signatures and tokens (§6.5, §7.1, §12.9, §12.10) out of keys that all Machines share.

Pure: time and chance are arguments. The keys come from `gateway.subscriptions.keyring`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from gateway.protocol import base64url
from gateway.protocol.target import without
from gateway.subscriptions.errors import Code, Refusal

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

# A token is good until its generation or its lease ends. Its own expiry is late, so that it cuts off no worker that has
# kept a lease alive for hours.
TOKEN_TTL: Final = 24 * 3600  # seconds


class Ticket(NamedTuple):
    """The meaning of a token: one generation of one subscription. The id is the stored one, with its tenant."""

    subscription: str
    generation: int


class Signer:
    """A webhook signing key and how it is published. Most Machines never sign: the key is made when it is used."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed

    @cached_property
    def _key(self) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self._seed)

    @cached_property
    def jwk(self) -> dict[str, str]:
        """The public key (RFC 8037)."""
        x = base64url.encode(self._key.public_key().public_bytes_raw())
        # A thumbprint (RFC 7638): stable for the life of the key.
        thumbprint = hashlib.sha256(b'{"crv":"Ed25519","kty":"OKP","x":"%b"}' % x.encode()).digest()
        kid = f"ds_{base64url.encode(thumbprint)}"
        return {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "use": "sig", "alg": "EdDSA"}

    @property
    def kid(self) -> str:
        """Its name."""
        return self.jwk["kid"]

    def sign(self, body: bytes, now: int) -> str:
        """The Webhook-Signature header of a body sent at `now` (Unix seconds)."""
        signature = base64url.encode(self._key.sign(b"%d.%b" % (now, body)))
        return f"t={now},kid={self.kid},ed25519={signature}"


@dataclass(frozen=True)
class Keys:
    """The signing keys. The last of `signers` signs; all are published, so that older signatures still verify."""

    signers: Sequence[Signer]
    token_key: bytes = field(repr=False)
    coming: Sequence[Signer] = ()  # published but not signing yet, since other Machines may not know of them

    @property
    def signer(self) -> Signer:
        return self.signers[-1]

    def jwks(self) -> dict[str, Any]:
        """The public keys as §6.5 shows them."""
        return {"keys": [signer.jwk for signer in (*self.signers, *self.coming)]}

    def issue_token(self, subscription_id: str, generation: int, now: float, nonce: str) -> str:
        """A token for one generation of one subscription."""
        payload = base64url.encode(
            orjson.dumps(
                {
                    "sub": f"subscription:{subscription_id}",
                    "epoch": generation,
                    "exp": int(now) + TOKEN_TTL,
                    "jti": nonce,
                }
            )
        )
        return f"{payload}.{self._mac(payload)}"

    def check_token(self, token: str, subscription_id: str, now: float) -> Ticket:
        """The ticket of a token. Raises Refusal: TOKEN_INVALID, also for another id than this one, or TOKEN_EXPIRED."""
        payload, _, mac = token.partition(".")
        if not hmac.compare_digest(mac.encode("utf-8", "replace"), self._mac(payload).encode()):
            raise Refusal(Code.TOKEN_INVALID, "Token invalid")
        claims = orjson.loads(base64url.decode(payload))  # we signed it, so its form is known
        subscription: str = claims["sub"].removeprefix("subscription:")
        if without(subscription) != subscription_id:
            raise Refusal(Code.TOKEN_INVALID, "Token invalid")
        if now > claims["exp"]:
            raise Refusal(Code.TOKEN_EXPIRED, "Token expired")
        generation = claims["epoch"]
        assert isinstance(generation, int)
        return Ticket(subscription, generation)

    def _mac(self, payload: str) -> str:
        return base64url.encode(hmac.digest(self.token_key, payload.encode("utf-8", "replace"), "sha256"))
