"""JWTs: who is let in, who is not and why, and what an issuer's outage changes, which is nothing."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.auth import jwks
from gateway.auth.claims import ClaimNames
from gateway.auth.errors import IssuerUnavailable, TokenExpired, TokenInvalid
from gateway.auth.gate import Gate, Pending
from gateway.auth.jwks import Jwks
from gateway.auth.jwt import Jwts, KeySource, Secret
from gateway.auth.principal import Principal
from gateway.protocol.errors import ProtocolError
from gateway.protocol.target import Target
from tests.auth.issuer import AUDIENCE, ISSUER, Issuer, issuing, right
from tests.servers import client_of, serving

SECRET = "a secret of at least thirty-two bytes"


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with issuing() as issuer:
        yield issuer


@pytest.fixture(autouse=True)
def _as_it_was(issuer: Issuer) -> Iterator[None]:
    keys = list(issuer.keys)
    yield
    issuer.keys, issuer.answering = keys, True


def jwts(source: KeySource, names: ClaimNames = ClaimNames()) -> Jwts:  # noqa: B008  it is frozen
    return Jwts(source, names, issuer=ISSUER, audience=AUDIENCE, leeway=10)


async def bearer(token: str, names: ClaimNames = ClaimNames()) -> Principal:  # noqa: B008
    """Who shows a token that is signed with the secret."""
    return await jwts(Secret(SECRET), names).verify(token, b"digest")


def signed(**claims: Any) -> str:
    return jwt.encode(right(**claims), SECRET, "HS256")


async def test_a_secret_lets_in_what_it_has_signed() -> None:
    ada = await bearer(signed(scope="read write openid", exp=2_000_000_000))
    assert ada == Principal("jwt:ada", frozenset({"read", "write"}), expires=2_000_000_010)
    assert (await bearer(signed(scope=["control"]))).scopes == {"control"}
    assert (await bearer(signed(scope=None))).scopes == set(), "no scope is no right, not every right"


async def test_the_holder_of_a_jwt_is_its_subject_in_one_spelling() -> None:
    async def id(**claims: Any) -> str:
        return (await bearer(signed(**claims))).id

    for subject in ("ada", "Ada Lovelace", "ada" * 100, "âda", None):
        one, other = await id(sub=subject), await id(sub=subject, exp=2_000_000_001, iat=7, jti="x")
        assert one == other, subject
    assert len({await id(sub=subject) for subject in ("ada", "Ada Lovelace", "Ada Byron", None)}) == 4
    assert await id(sub=None, email="a@b") != await id(sub=None, email="b@b"), "without a subject, what else is claimed"
    assert await id(sub="~") != await id(sub=None)
    head, claims, mac = signed().split(".")
    for spelled in (f"{head}.{claims}.{mac}=", f"{head}.{claims}.{mac[:-1]}{chr(ord(mac[-1]) + 1)}"):
        with suppress(TokenInvalid):  # one spelling is enough
            assert (await bearer(spelled)).id == "jwt:ada"


@pytest.mark.parametrize("claim", ["runs", "scope"])
@pytest.mark.parametrize("nothing", [None, "", []])
async def test_a_claim_that_holds_nothing_opens_nothing(claim: str, nothing: Any) -> None:
    claims = {"scope": "read", claim: nothing}
    ada = await bearer(jwt.encode(right() | claims, SECRET, "HS256"))
    assert not ada.scopes or (ada.bound and not ada.reaches("runs/1") and not ada.reaches("runs/"))


@pytest.mark.parametrize(
    ("claims", "error", "words"),
    [
        ({"exp": 1_700_000_000}, TokenExpired, None),
        ({"exp": None}, TokenInvalid, "It must have exp"),
        ({"aud": "others"}, TokenInvalid, "It is for another audience."),
        ({"aud": None}, TokenInvalid, "It must have exp, and the issuer and audience"),
        ({"iss": "https://other.example/"}, TokenInvalid, "It is of another issuer."),
        ({"nbf": 1_999_999_000}, TokenInvalid, "It is not valid yet."),
        ({"scope": {"read": True}}, TokenInvalid, "The claim scope must be"),
        ({"runs": 7}, TokenInvalid, "The claim runs must be"),
        ({"runs": ["x" * 300]}, TokenInvalid, "too long"),
    ],
)
async def test_a_wrong_claim_is_refused_with_its_reason(
    claims: dict[str, Any], error: type[ProtocolError], words: str | None
) -> None:
    with pytest.raises(error) as refused:
        await bearer(signed(**claims))
    assert (refused.value.details or "").startswith(words or "") or (words or "") in (refused.value.details or "")


async def test_what_was_verified_once_is_let_in_from_memory() -> None:
    """Until it expires, and no longer. An append past ASGI is made by nobody but who is remembered."""
    now = [1_999_999_000.0]
    gate = Gate(None, [jwts(Secret(SECRET))], lambda: now[0])
    header = f"Bearer {signed(scope='write', exp=2_000_000_000)}".encode()

    def admit() -> Principal | Pending:
        return gate.admit("POST", Target.of("/runs/1"), {b"authorization": header}, b"")

    pending = admit()
    assert not isinstance(pending, Principal), "nobody has looked at its signature yet"
    assert (await pending()).id == "jwt:ada"
    now[0] = 2_000_000_009.9
    assert isinstance(admit(), Principal)
    for now[0] in (2_000_000_010.0, 2_000_000_011.0):
        with pytest.raises(TokenExpired):
            admit()


async def test_clocks_may_differ_by_the_leeway() -> None:
    await bearer(signed(exp=int(time.time()) - 5, nbf=int(time.time()) + 5))


async def test_runs_and_tenant_come_from_the_configured_claims() -> None:
    names = ClaimNames(scopes="scp", tenant="https://example/org", runs="may")
    claims: dict[str, Any] = {"scope": None, "scp": "read", "may": ["mine-*"], "https://example/org": "acme"}
    ada = await bearer(signed(**claims), names)
    assert (ada.id, ada.tenant, ada.runs) == ("jwt:ada@acme", "acme", ("mine-*",))
    assert ada.reaches("runs/mine-1") and not ada.reaches("runs/other")
    for tenant in (None, "", 7, "a\x1fb", "a/b"):
        with pytest.raises(TokenInvalid, match="must name a tenant"):
            await bearer(signed(**{**claims, "https://example/org": tenant}), names)


@pytest.mark.parametrize(
    "secret", ["short", "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A\n-----END PUBLIC KEY-----"]
)
def test_a_secret_has_to_be_one(secret: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        Secret(secret)


@pytest.mark.parametrize("kid", ["rs", "es", "ed"])
async def test_an_issuers_keys_of_three_kinds_are_fetched(issuer: Issuer, kid: str) -> None:
    keys = Jwks(issuer.url, lambda: None)
    await keys.start()
    try:
        assert (await jwts(keys).verify(issuer.token(kid), b"digest")).id == "jwt:ada"
    finally:
        await keys.stop()


async def test_no_algorithm_can_be_taken_for_another(issuer: Issuer) -> None:
    """RFC 8725, §2.1: `none`, and a public key as the secret of an HMAC."""
    keys = Jwks(issuer.url, lambda: None)
    await keys.start()
    try:
        pem = issuer.private["rs"][0].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        for header, key in (
            ({"alg": "none", "kid": "rs"}, None),
            ({"alg": "HS256", "kid": "rs"}, pem),
            ({"alg": "HS256", "kid": "ed"}, base64.urlsafe_b64decode(issuer.public("ed")["x"] + "==")),
        ):
            body = b".".join(
                base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, right())
            )
            mac = b"" if key is None else base64.urlsafe_b64encode(hmac.digest(key, body, "sha256"))
            with pytest.raises(TokenInvalid):
                await jwts(keys).verify((body + b"." + mac.rstrip(b"=")).decode(), b"digest")
        other_key = jwt.encode(right(), issuer.private["es"][0], "ES256", headers={"kid": "rs"})
        with pytest.raises(TokenInvalid):
            await jwts(keys).verify(other_key, b"digest")
    finally:
        await keys.stop()


@pytest.mark.parametrize("head", ["[" * 3000, '{"alg":"HS256","kid":["a"]}', '{"alg":7}', "null", "{", "\xff"])
async def test_what_cannot_be_read_is_invalid_and_no_fault(head: str) -> None:
    parts = [base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (head.encode("latin-1"), b"{}", b"mac")]
    with pytest.raises(TokenInvalid):
        await bearer(".".join(parts))


async def test_a_signed_claim_that_is_no_time_is_invalid_and_no_fault() -> None:
    wrong: list[Any] = ["soon", [1], float("inf"), {}]
    for exp in wrong:
        with pytest.raises(TokenInvalid):
            await bearer(jwt.api_jws.encode(json.dumps(right(exp=exp)).encode(), SECRET, "HS256"))


async def test_published_keys_that_are_not_for_signatures_are_not_used(issuer: Issuer) -> None:
    issuer.keys = [
        {"kty": "oct", "k": base64.urlsafe_b64encode(SECRET.encode()).decode(), "kid": "oct", "alg": "HS256"},
        {**issuer.public("rs"), "kid": "encryption", "use": "enc"},
        {**issuer.public("rs"), "kid": "rs512", "alg": "RS512"},
        {**issuer.public("ed"), "kid": "broken", "x": "!"},
        {"kty": ["OKP"]},
        "nonsense",
        issuer.public("ed"),
    ]
    keys = Jwks(issuer.url, lambda: None)
    await keys.start()
    try:
        assert list(keys._keys or {}) == ["ed"]
        assert (await keys.find(None)) is not None, "the only one needs no name"
    finally:
        await keys.stop()


async def test_an_outage_of_the_issuer_locks_nobody_out(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "PAUSE", -1)
    changes: list[None] = []
    keys = Jwks(issuer.url, lambda: changes.append(None))
    issuer.answering = False
    await keys.start()
    try:
        with pytest.raises(IssuerUnavailable):
            await jwts(keys).verify(issuer.token(), b"digest")
        issuer.answering = True
        await jwts(keys).verify(issuer.token(), b"digest")
        issuer.answering = False
        issuer.private["new"] = issuer.private["ed"]
        with pytest.raises(IssuerUnavailable):
            await jwts(keys).verify(issuer.token("new"), b"digest")
        await jwts(keys).verify(issuer.token(), b"digest")
        issuer.answering, issuer.keys = True, [issuer.public("new")]
        await jwts(keys).verify(issuer.token("new"), b"digest")
        with pytest.raises(TokenInvalid):
            await jwts(keys).verify(issuer.token(), b"digest")
        assert len(changes) == 2
    finally:
        await keys.stop()


async def test_unknown_names_do_not_make_the_gateway_ask_repeatedly(issuer: Issuer) -> None:
    keys = Jwks(issuer.url, lambda: None)
    await keys.start()
    try:
        asked = issuer.asked
        for _ in range(5):
            with pytest.raises(TokenInvalid):
                await jwts(keys).verify(jwt.encode(right(), SECRET, "HS256", headers={"kid": "?"}), b"digest")
        assert issuer.asked == asked
    finally:
        await keys.stop()


async def test_an_issuers_users_come_each_into_their_own_tenant(issuer: Issuer, database_url: str) -> None:
    settings: dict[str, Any] = {
        "auth": "jwt",
        "jwt_jwks_url": issuer.url,
        "jwt_issuer": ISSUER,
        "jwt_audience": AUDIENCE,
        "jwt_tenant_claim": "org",
    }
    with serving(database_url, "direct", **settings) as running:
        async with client_of(running) as client:

            async def status(method: str, token: str, **options: Any) -> int:
                bearer = {"authorization": f"Bearer {token}", "content-type": "application/json"}
                return (await client(method, "/runs/1", headers=bearer, **options)).status_code

            ada, bob = (issuer.token("es", sub=name, org=org) for name, org in (("ada", "acme"), ("bob", "globex")))
            issuer.answering = False
            assert await status("PUT", ada) == 201
            for _ in range(2):  # the second time past ASGI
                assert await status("POST", ada, content=b"1") == 204
                assert await status("POST", bob, content=b"1") == 404
            assert (await status("GET", ada), await status("GET", bob)) == (200, 404)
            assert await status("GET", issuer.token("es")) == 401, "no tenant is no default one"
            assert await status("GET", issuer.token("es", org="acme", exp=int(time.time()) - 60)) == 401
            assert await status("GET", signed(org="acme")) == 401
