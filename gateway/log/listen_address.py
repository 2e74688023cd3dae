"""The addresses for LISTEN: past the pooler, where its direct address is known or follows from the pooled one.

On Fly's managed Postgres that is direct.<cluster>.flympg.net for pgbouncer.<cluster>.flympg.net:
https://fly.io/docs/mpg/
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

_POOLED = re.compile(r"pgbouncer\.([a-z0-9-]+\.flympg\.net)")
_PORT = 5432


def direct_address(url: str) -> str | None:
    """The database's address past Fly's pooler; None where that does not follow for certain."""
    parts = urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    name, _, port = host.partition(":")
    pooled = _POOLED.fullmatch(name)
    if pooled is None or port not in ("", str(_PORT)) or "host=" in parts.query:
        return None
    direct = f"direct.{pooled[1]}" + (f":{port}" if port else "")
    return urlunsplit(parts._replace(netloc=f"{login}{at}{direct}"))


def listening_addresses(database_url: str, given: str | None) -> list[str]:
    """The addresses to try LISTEN at, best first: only the given one; else a derived one, and then the database's."""
    if given is not None:
        return [given]
    derived = direct_address(database_url)
    return [database_url] if derived is None else [derived, database_url]


def host_of(url: str) -> str:
    """The host alone, which may be logged: the rest of the address may hold a password."""
    return urlsplit(url).hostname or "a local socket"
