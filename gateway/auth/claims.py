"""The claims of a JWT become a Principal. The signature has been verified before. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from gateway.auth.errors import TokenInvalid
from gateway.auth.principal import TENANT, Principal, scopes_of

MOST_PATTERNS: Final = 64
_LONGEST_PATTERN: Final = 256  # characters
_OF_ONE_ISSUE: Final = ("exp", "nbf", "iat", "jti")  # claims that differ each time a JWT is issued
_SUBJECT: Final = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(frozen=True, slots=True)
class ClaimNames:
    """The names of claims. `tenant` None: everybody is of the default tenant; otherwise the claim is required."""

    scopes: str = "scope"
    tenant: str | None = None
    runs: str = "runs"


def principal_of_claims(claims: Mapping[str, Any], names: ClaimNames, *, leeway: float) -> Principal:
    """The principal that claims describe. `leeway`: seconds that a token outlives `exp`. Raises TokenInvalid."""
    scopes = _words(claims, names.scopes)
    tenant = "" if names.tenant is None else claims.get(names.tenant)
    if not isinstance(tenant, str) or (names.tenant is not None and not TENANT.fullmatch(tenant)):
        raise TokenInvalid(f"The claim {names.tenant} must name a tenant.")
    runs = _words(claims, names.runs)
    if runs is not None and (len(runs) > MOST_PATTERNS or max(map(len, runs), default=0) > _LONGEST_PATTERN):
        raise TokenInvalid(f"The claim {names.runs} has too many patterns, or too long ones.")
    holder = _holder(claims)
    return Principal(
        id=f"{holder}@{tenant}" if tenant else holder,
        scopes=scopes_of(scopes or ()),
        tenant=tenant,
        runs=runs,
        expires=int(claims["exp"]) + leeway,
    )


def _holder(claims: Mapping[str, Any]) -> str:
    """Names who bears the JWT, by its subject (RFC 7519, §4.1.2), however often it is issued and however it is spelled.

    A JWT without a subject is named by what it claims besides its times and its own id.
    """
    subject = claims.get("sub")
    if isinstance(subject, str) and _SUBJECT.fullmatch(subject):
        return f"jwt:{subject}"
    named = subject or {name: value for name, value in claims.items() if name not in _OF_ONE_ISSUE}
    return f"jwt~{sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]}"


def _words(claims: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    """A claim that is a list of strings, or one string of words (RFC 8693, §4.2); None: there is no such claim.

    Raises TokenInvalid.
    """
    if name not in claims:
        return None
    value = claims[name]
    if value is None:
        return ()  # a claim that holds nothing opens nothing
    if isinstance(value, str):
        return tuple(value.split())
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return tuple(value)
    raise TokenInvalid(f"The claim {name} must be a string or a list of strings.")
