from __future__ import annotations

import base64
import hashlib
import re

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.subscriptions.errors import Code, Refusal
from gateway.subscriptions.signing import TOKEN_TTL, Keys, Signer

KEYS = Keys([Signer(b"\1" * 32), Signer(b"\2" * 32)], b"\3" * 32)
NOW = 1_800_000_000.5


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def public_key(jwk: dict[str, str]) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(decoded(jwk["x"]))


def test_a_signature_verifies_with_the_published_key_it_names() -> None:
    header = KEYS.signer.sign(b'{"a":1}', 1_800_000_000)
    match = re.fullmatch(r"t=(\d+),kid=([^,]+),ed25519=([A-Za-z0-9_-]+)", header)
    assert match is not None and match[1] == "1800000000"
    jwk = next(key for key in KEYS.jwks()["keys"] if key["kid"] == match[2])
    public_key(jwk).verify(decoded(match[3]), b'1800000000.{"a":1}')
    with pytest.raises(InvalidSignature):
        public_key(jwk).verify(decoded(match[3]), b'1800000001.{"a":1}')


def test_a_kid_is_the_keys_thumbprint_and_no_secret_is_published() -> None:
    jwk = KEYS.jwks()["keys"][0]
    assert {name: jwk[name] for name in ("kty", "crv", "use", "alg")} == {
        "kty": "OKP",
        "crv": "Ed25519",
        "use": "sig",
        "alg": "EdDSA",
    }
    thumbprint = hashlib.sha256(b'{"crv":"Ed25519","kty":"OKP","x":"%b"}' % jwk["x"].encode()).digest()
    assert jwk["kid"] == "ds_" + base64.urlsafe_b64encode(thumbprint).rstrip(b"=").decode()
    assert set(jwk) == {"kty", "crv", "x", "kid", "use", "alg"}


def test_the_last_key_signs_and_all_are_published() -> None:
    kids = [key["kid"] for key in KEYS.jwks()["keys"]]
    assert len(set(kids)) == 2
    assert KEYS.signer.kid == kids[-1]


def test_a_token_gives_its_generation_to_its_subscription_alone() -> None:
    token = KEYS.issue_token("sub/1 ü", 7, NOW, "n")
    assert KEYS.check_token(token, "sub/1 ü", NOW) == ("sub/1 ü", 7)
    for other in ("sub", "sub/1", ""):
        with pytest.raises(Refusal) as refusal:
            KEYS.check_token(token, other, NOW)
        assert refusal.value.code is Code.TOKEN_INVALID


def test_a_token_expires() -> None:
    token = KEYS.issue_token("s", 7, NOW, "n")
    KEYS.check_token(token, "s", NOW + TOKEN_TTL - 1)
    with pytest.raises(Refusal) as refusal:
        KEYS.check_token(token, "s", NOW + TOKEN_TTL + 1)
    assert refusal.value.code is Code.TOKEN_EXPIRED


def test_a_token_that_was_tampered_with_is_none() -> None:
    token = KEYS.issue_token("s", 7, NOW, "n")
    payload, _, mac = token.partition(".")
    forged = Keys(KEYS.signers, b"\4" * 32).issue_token("s", 8, NOW, "n")
    assert forged.partition(".")[2] != mac
    for bad in ("", ".", payload, f"{payload}.", f".{mac}", token + "x", token + ".x", forged, "ü.ÿ", token[1:]):
        with pytest.raises(Refusal) as refusal:
            KEYS.check_token(bad, "s", NOW)
        assert refusal.value.code is Code.TOKEN_INVALID
