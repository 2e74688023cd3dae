"""The types of settings' values: each checks a text and brings it into the one form that the rest expects.

Each check raises ValueError with the words that follow the variable's name in the message to its user, such as "must
begin with http:// or https://".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Final
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from gateway.wording import DURATION, DURATIONS

KIB: Final = 1024  # bytes
MIB: Final = 1024 * KIB


_HOST: Final = re.compile(r"(\[[^\[\]]*\]|[^\[\]:]*)(:\d*)?")  # `host`, `host:port` or `[::1]:port`
_SCHEME: Final = re.compile(r"postgres(ql)?(\+\w+)?://")  # SQLAlchemy's addresses name their driver
_OPTION: Final = re.compile(r"[\w.]+")
_UNREADABLE: Final = "cannot be read as an address: in a password, / ? and # are written %2F, %3F and %23"


def is_loopback(host: str) -> bool:
    """True if only this very host can reach an address: `localhost`, 127.0.0.0/8 or ::1."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _postgres_url(value: str) -> str:
    if _SCHEME.match(value) is None:
        # The value itself stays out of the message: it may hold a password.
        raise ValueError("must begin with postgres:// or postgresql://")
    try:
        parts = urlsplit(value)
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError(_UNREADABLE) from None
    hosts = parts.netloc.rpartition("@")[2].split(",")
    names = [name for name, _ in options]
    readable = all(map(_HOST.fullmatch, hosts)) and all(map(_OPTION.fullmatch, names))
    # What ends the login too early would have half a password shown as the host.
    if not readable or "@" in parts.path or parts.fragment:
        raise ValueError(_UNREADABLE)
    return value


def _http_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return value.rstrip("/")


def _jwks_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        host = parts.hostname
    except ValueError:
        host = None
    if (
        host is None
        or parts.username is not None
        or not (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))
    ):
        # An attacker who replaces these keys on their way to us can sign a token for anybody.
        raise ValueError("must be an https:// address without a password; http:// on loopback alone")
    return value


def _auth(value: str) -> str:
    kinds = sorted(kind.strip() for kind in value.split(","))
    if kinds != ["none"] and (not set(kinds) <= {"jwt", "keys"} or len(kinds) != len(set(kinds))):
        raise ValueError("must be none, keys, jwt or keys,jwt")
    return ",".join(kinds)


def _origin(value: str) -> str:
    url = urlsplit(_http_url(value))
    if not url.hostname or url.path or url.query or url.fragment or url.username:
        raise ValueError("must be an origin: http://host:port, and nothing after it")
    return value.rstrip("/")


def _patterns(value: str) -> str:
    patterns = [pattern.strip() for pattern in value.split(",")]
    if not all(patterns) or any("/" in pattern for pattern in patterns):
        raise ValueError("must be patterns of runs' ids, with commas between, such as live-*")
    return ",".join(patterns)


def _cors_origins(value: str) -> str:
    return value if value in ("*", "none") else ",".join(sorted({_cors_origin(each) for each in value.split(",")}))


def _cors_origin(value: str) -> str:
    """An origin spelled as browsers send it, in lower case and without the default port: only that is ever compared."""
    origin = _origin(value.strip()).lower()
    if "*" in origin:
        raise ValueError("must be *, none, or origins in full")
    return origin.removesuffix(":443" if origin.startswith("https:") else ":80")


def _with_unit(pattern: re.Pattern[str], units: Mapping[str, float], such_as: str) -> BeforeValidator:
    """Turns a number with one of these units after it into the number of the smallest; numbers stay as they are."""

    def number(value: object) -> object:
        if not isinstance(value, str):
            return value
        given = pattern.fullmatch(value.strip())
        if given is not None:
            return float(given[1]) * units[given[2]]
        try:
            float(value)
        except ValueError:
            raise ValueError(f"must be a number, or one with its unit, such as {such_as}") from None
        return value

    return BeforeValidator(number)


_SIZES: Final = {
    "kB": 1000, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": KIB, "MiB": MIB, "GiB": 1024 * MIB,
}  # bytes  # fmt: skip

IN_SECONDS: Final = _with_unit(DURATION, DURATIONS, "250ms, 90s, 5min, 12h or 7d")
"""A time may have its unit with it: 90s, 5min, 12h, 7d."""
IN_BYTES: Final = _with_unit(re.compile(rf"(\d+(?:\.\d+)?) ?({'|'.join(_SIZES)})"), _SIZES, "64KiB or 10MB")
"""A size may have its unit with it: 64KiB, 10MB."""

PostgresUrl = Annotated[str, AfterValidator(_postgres_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
JwksUrl = Annotated[str, AfterValidator(_jwks_url)]
Origin = Annotated[str, AfterValidator(_origin)]
Patterns = Annotated[str, AfterValidator(_patterns)]  # of runs' ids, with commas between
CorsOrigins = Annotated[str, AfterValidator(_cors_origins)]  # `*`, `none`, or origins with commas between
AuthKinds = Annotated[str, AfterValidator(_auth)]  # `none`, or kinds of credentials with commas between
LowerCase: Final = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
"""A word that people also write in capitals, as LOG_LEVEL=INFO."""
Duration = Annotated[float, IN_SECONDS]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False), IN_SECONDS]
Bytes = Annotated[int, IN_BYTES]
