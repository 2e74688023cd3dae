"""The address of a database, as providers, frameworks and other clients write it, and as asyncpg takes it. Pure.

asyncpg hands each option that it does not know to the server as a setting of the session, and the server refuses the
connection. So what means something here is used here, what is meant for another client is left out, and only the rest
goes on. https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Literal, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

Trust = Literal["as sslmode says", "nobody is verified", "the system's authorities"]
"""Whose word for the server's certificate is taken, where it is encrypted."""

_YES: Final = {"true", "1", "yes", "on"}
_NO: Final = {"false", "0", "no", "off"}

# Options of other clients, and of libpq where asyncpg has nothing like it.
_FOREIGN_TO: Final = {
    "libpq": "channel_binding gssencmode gssdelegation require_auth load_balance_hosts sslsni sslcompression"
    " sslcertmode sslcrldir fallback_application_name client_encoding hostaddr",
    "Prisma": "schema connection_limit socket_timeout pgbouncer statement_cache_size single_use_connections"
    " max_connection_lifetime max_idle_connection_lifetime sslidentity",
    "Rails": "adapter encoding prepared_statements advisory_locks checkout_timeout idle_timeout reaping_frequency"
    " min_messages schema_search_path reconnect",
    "SQLAlchemy": "async_fallback command_timeout prepared_statement_cache_size prepared_statement_name_func",
    "Supabase": "supa workaround",
    "node-postgres": "uselibpqcompat max",
    "pgx": "default_query_exec_mode statement_cache_capacity description_cache_capacity",
    "JDBC": "ApplicationName binaryTransfer currentSchema loginTimeout preferQueryMode prepareThreshold"
    " reWriteBatchedInserts socketTimeout sslfactory targetServerType tcpKeepAlive",
}
_FOREIGN: Final = frozenset(name for names in _FOREIGN_TO.values() for name in names.split())
_KEEPALIVE: Final = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}
_OURS: Final = frozenset({"connect_timeout", "application_name", "keepalives", "ssl", "sslaccept", *_KEEPALIVE})
_SHORTEST: Final = 2.0  # seconds: libpq waits no less


_NAME: Final = "run-gateway"  # by which the database lists our connections


class Address(NamedTuple):
    """`dsn` is for asyncpg. `connect_timeout` is in seconds, None where none is asked for. `keepalive` has socket
    options by their names in the module `socket`, or is None where keepalives are switched off. `left_out` names the
    options that mean nothing here.
    """

    dsn: str
    application_name: str = _NAME
    connect_timeout: float | None = None
    keepalive: dict[str, int] | None = {}  # noqa: RUF012  nobody writes to it
    trust: Trust = "as sslmode says"
    left_out: tuple[str, ...] = ()


@lru_cache(maxsize=16)
def read(url: str) -> Address:
    """Parses an address of DATABASE_URL. `url` begins with postgres:// or postgresql://, with or without the name of a
    driver, as in postgresql+asyncpg://. Raises ValueError where a number is expected and there is none.
    """
    parts = urlsplit(url)
    given = {name: value for name, value in parse_qsl(parts.query) if value}
    mode, trust = _encryption(given)
    passed_on = {name: value for name, value in given.items() if name not in _OURS and not _is_foreign(name)}
    if mode is not None:
        passed_on["sslmode"] = mode
    if trust == "the system's authorities":
        passed_on.pop("sslrootcert", None)
    timeout = _number(given, "connect_timeout")
    return Address(
        urlunsplit(parts._replace(scheme=parts.scheme.partition("+")[0], query=urlencode(passed_on))),
        given.get("application_name", _NAME),
        max(timeout, _SHORTEST) if timeout and timeout > 0 else None,
        _keepalive(given),
        trust,
        tuple(name for name in given if _is_foreign(name)),
    )


def _is_foreign(name: str) -> bool:
    return name in _FOREIGN or name.startswith("pool")


def _encryption(given: dict[str, str]) -> tuple[str | None, Trust]:
    """The mode as libpq names it, and whose word is taken. `ssl` is what node-postgres, JDBC and SQLAlchemy write,
    `sslaccept` what Prisma does, `no-verify` what node-postgres calls encryption without a look at the certificate.
    """
    mode = given.get("sslmode")
    if mode is None and "ssl" in given:
        said = given["ssl"].lower()
        mode = "require" if said in _YES else "disable" if said in _NO else given["ssl"]
    if mode == "no-verify":
        return "require", "nobody is verified"
    if given.get("sslaccept") == "accept_invalid_certs" and mode not in (None, "disable"):
        return "require", "nobody is verified"
    if given.get("sslaccept") == "strict" and mode not in (None, "disable") and "sslrootcert" not in given:
        return "verify-full", "the system's authorities"
    if given.get("sslrootcert") == "system":
        return "verify-full", "the system's authorities"  # libpq takes no weaker mode with it
    return mode, "as sslmode says"


def _keepalive(given: dict[str, str]) -> dict[str, int] | None:
    if given.get("keepalives") == "0":
        return None
    asked = {option: _number(given, name) for name, option in _KEEPALIVE.items()}
    return {option: int(value) for option, value in asked.items() if value}  # 0 is the system's default


def _number(given: dict[str, str], name: str) -> float | None:
    if name not in given:
        return None
    try:
        return float(given[name])
    except ValueError:
        raise ValueError(f"{name} is no number") from None
