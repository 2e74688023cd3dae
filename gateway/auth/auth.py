"""Authentication as the application uses it: made from the settings, started, stopped, and asked at its door."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal

from gateway.asgi import Scope
from gateway.auth.claims import ClaimNames
from gateway.auth.errors import ScopeMissing
from gateway.auth.gate import Admit, Gate
from gateway.auth.keys import Keys
from gateway.auth.principal import ANONYMOUS, Principal
from gateway.auth.public import PublicRuns
from gateway.auth.read_tokens import Capability
from gateway.auth.token_keys import ReadTokens
from gateway.log.database import Database
from gateway.protocol.fields import GivenHeaders
from gateway.protocol.target import Target
from gateway.settings import BadSetting, Settings, variable

if TYPE_CHECKING:
    from gateway.auth.jwks import Jwks
    from gateway.auth.jwt import Jwts, KeySource

Behind = Literal["write", "read", "control"]
"""The rights that a request to the application behind the gateway may need here."""

_CREDENTIALS: Final = {"keys": "keys", "keys_file": "keys", "jwt_secret": "jwt", "jwt_jwks_url": "jwt"}
"""Settings that only count when AUTH has the kind beside them."""


class Auth:
    """Asked about every request that comes in. Raises BadSetting for settings that cannot be meant."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._gate: Gate | None = None
        self.public = PublicRuns(settings.public_runs.split(",") if settings.public_runs else ())
        if settings.auth == "none":
            return
        self._keys, self._source = _trusted(settings, self._forget)
        self._tokens = ReadTokens(database, (settings.token_secrets or "").split(), self._forget)
        jwts = [] if self._source is None else [_jwts(settings, self._source)]
        self._gate = Gate(
            None if self._keys is None else self._keys.find, [self._tokens, *jwts], time.time, self.public.opens
        )

    @property
    def on(self) -> bool:
        """True if requests need a credential."""
        return self._gate is not None

    async def start(self) -> None:
        """Begins to look after keys that others may change."""
        if self._gate is not None:
            await self._tokens.start()
            if (issuer := _issuer(self._source)) is not None:
                await issuer.start()

    async def stop(self) -> None:
        if self._gate is not None:
            await self._tokens.stop()
            if (issuer := _issuer(self._source)) is not None:
                await issuer.stop()

    @property
    def admit(self) -> Admit:
        """Finds the principal of a request that is allowed. Raises the refusals of `gate.Gate.admit`."""
        return _everyone if self._gate is None else self._gate.admit

    async def behind(self, scope: Scope, need: Behind, run: str | None = None) -> Principal:
        """Admits a request to the application behind the gateway that needs a right to runs here: to `run`, or to any
        one. Raises what `admit` and what it returns raise.
        """
        admitted = self.admit(*_as_asked_of_us(need, run), scope["headers"], scope["query_string"])
        return admitted if isinstance(admitted, Principal) else await admitted()

    def read_again(self) -> None:
        """Takes the keys that the file holds now."""
        if self._gate is not None and self._keys is not None:
            self._keys.read_again()

    async def signer(
        self, principal: Principal, *, control: bool = False, ttl: int | None = None
    ) -> Callable[[str, int], tuple[str, int]] | None:
        """A function that makes tokens for a run, from its path and its stream's id: the token, and its expiry (Unix
        seconds).

        A principal gives away no more than it has, of scopes or of time. None where no token is needed, and for a
        principal that may not read. Raises ScopeMissing, Unavailable.
        """
        if self._gate is None:
            return None
        if control and "control" not in principal.scopes:
            raise ScopeMissing("control")
        if "read" not in principal.scopes:
            return None
        expires = int(time.time()) + min(ttl or self._settings.token_ttl, self._settings.token_ttl)
        if principal.expires is not None:
            expires = min(expires, int(principal.expires))
        signed = await self._tokens.signer()

        def sign(stream: str, stream_id: int) -> tuple[str, int]:
            return signed(Capability(principal.tenant, stream, control, expires, stream_id)), expires

        return sign

    def _forget(self) -> None:
        if self._gate is not None:
            self._gate.forget()


def _everyone(method: str, target: Target, headers: GivenHeaders, query: bytes) -> Principal:
    return ANONYMOUS


def _as_asked_of_us(need: Behind, run: str | None) -> tuple[str, Target]:
    """The request to the gateway itself that needs the same right; where the run is not known yet, for any one."""
    match need:
        case "write":
            return "POST", Target.of("/runs")
        case "read":
            return "GET", Target.of("/runs" if run is None else f"/runs/{run}")
        case "control":
            return "POST", Target.of(f"/runs/{run or 'any'}/cancel")


def check(settings: Settings) -> None:
    """Raises BadSetting for settings that cannot be meant, before anything is started."""
    if settings.auth != "none":
        _trusted(settings, lambda: None)
    elif "auth" not in settings.model_fields_set:
        for name, kind in _CREDENTIALS.items():
            if getattr(settings, name) is not None:
                raise BadSetting(
                    f"{variable(name)} is set, but AUTH is not, and nobody would be asked for anything:"
                    f" set AUTH={kind}, or AUTH=none if that is meant"
                )


def _trusted(settings: Settings, changed: Callable[[], None]) -> tuple[Keys | None, KeySource | None]:
    kinds = settings.auth.split(",")
    if any(len(secret) < 32 for secret in (settings.token_secrets or "").split()):
        raise BadSetting("GATEWAY_TOKEN_SECRETS must each be at least 32 characters")
    return (
        Keys(settings.keys, settings.keys_file) if "keys" in kinds else None,
        _source(settings, changed) if "jwt" in kinds else None,
    )


def _issuer(source: KeySource | None) -> Jwks | None:
    """A source whose keys others may change."""
    if source is None:
        return None
    from gateway.auth.jwks import Jwks

    return source if isinstance(source, Jwks) else None


def _source(settings: Settings, changed: Callable[[], None]) -> KeySource:
    from gateway.auth.jwks import Jwks  # cryptography, and a client of HTTP: only for JWTs
    from gateway.auth.jwt import Secret

    if (settings.jwt_secret is None) == (settings.jwt_jwks_url is None):
        raise BadSetting("AUTH has jwt: set one of GATEWAY_JWT_SECRET and GATEWAY_JWT_JWKS_URL")
    if settings.jwt_secret is not None:
        try:
            return Secret(settings.jwt_secret)
        except ValueError as error:
            raise BadSetting(f"GATEWAY_JWT_SECRET {error}") from None
    if settings.jwt_issuer is None or settings.jwt_audience is None:
        # An issuer signs for other services too: without these two, any token of its would be let in.
        raise BadSetting("GATEWAY_JWT_JWKS_URL needs GATEWAY_JWT_ISSUER and GATEWAY_JWT_AUDIENCE")
    assert settings.jwt_jwks_url is not None
    return Jwks(settings.jwt_jwks_url, changed)


def _jwts(settings: Settings, source: KeySource) -> Jwts:
    from gateway.auth.jwt import Jwts

    return Jwts(
        source,
        ClaimNames(settings.jwt_scope_claim, settings.jwt_tenant_claim, settings.jwt_runs_claim),
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        leeway=settings.jwt_leeway,
    )
