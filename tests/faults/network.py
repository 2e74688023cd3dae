"""The network as a fault: a proxy in front of the database, which is reached over TCP from then on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit, urlunsplit

from tests.tools.proxy import Proxy


@asynccontextmanager
async def distant(database_url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """The proxy, and the address of the database behind it."""
    parts = urlsplit(database_url)
    query = parse_qs(parts.query)
    if parts.hostname is None:
        target = f"unix:{query['host'][0]}/.s.PGSQL.{query.get('port', ['5432'])[0]}"
    else:
        target = f"tcp://{parts.hostname}:{parts.port or 5432}"
    async with Proxy(target) as proxy:
        login, at, _ = parts.netloc.rpartition("@")
        netloc = f"{login}{at or ''}127.0.0.1:{proxy.port}"
        yield proxy, urlunsplit(parts._replace(netloc=netloc, query=""))
