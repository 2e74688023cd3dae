"""The public keys of an issuer, fetched from its JWKS address (RFC 7517), kept, and fetched again in the background.

While the address does not answer, the known keys stay valid: an issuer's outage locks nobody out. A token whose key is
not known meanwhile is answered 503: it is neither let in nor called invalid.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

import httpx
import orjson
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from gateway.auth.errors import IssuerUnavailable
from gateway.auth.jwt import Key
from gateway.outage import Outage
from gateway.tasks import end, forever, kept
from gateway.wording import one_line

logger = logging.getLogger("gateway.auth.jwks")

REFRESH: Final = 300.0  # seconds between fetches, give or take a tenth
RETRY: Final = (1.0, 60.0)  # seconds between fetches that fail, shortest and longest
PAUSE: Final = 10.0  # seconds, at least, between fetches for unknown keys, since a token may name any key
_TIMEOUT: Final = 5.0  # seconds
_MOST_BYTES: Final = 1 << 20  # of a set of keys
_MOST_KEYS: Final = 100

_ALGORITHMS: Final = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
"""By type and curve. `oct` is not among them: a secret is never published."""


class Jwks:
    """The keys at `url`. `on_change` is called when they differ from those before."""

    def __init__(self, url: str, on_change: Callable[[], None], *, refresh: float = REFRESH) -> None:
        self._url = url
        self._on_change = on_change
        self._refresh = refresh
        self._keys: dict[str | None, Key] | None = None  # None: never fetched
        self._raw = b""
        self._delay = RETRY[0]
        self._looked_at = float("-inf")
        self._outage = Outage(
            logger,
            "The issuer's keys cannot be fetched (%s); those that are known stay.",
            "The issuer's keys can be fetched again.",
        )
        self._look: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._http: httpx.AsyncClient | None = None

    async def start(self) -> None:
        """Fetches once, then in the background. Without an answer this Machine serves all the same."""
        self._http = httpx.AsyncClient(timeout=_TIMEOUT, headers={"accept": "application/json"})
        await self._look_now()
        self._task = kept("the issuer's keys", self._run)

    async def stop(self) -> None:
        await end(self._task, self._look)
        if self._http is not None:
            await self._http.aclose()

    async def find(self, kid: str | None) -> Key | None:
        """The key of that name, which is fetched if it is not known. Raises IssuerUnavailable."""
        key = self._known(kid)
        if key is None and asyncio.get_running_loop().time() - self._looked_at > PAUSE:
            await self._look_now()
            key = self._known(kid)
        if key is None and (self._outage.lasts or self._keys is None):
            raise IssuerUnavailable
        return key

    def _known(self, kid: str | None) -> Key | None:
        keys = self._keys or {}
        if kid is None and len(keys) == 1:
            return next(iter(keys.values()))
        return keys.get(kid)

    async def _run(self) -> None:
        await forever("Fetching the issuer's keys", self._look_now, self._pause, late=True)

    def _pause(self) -> float:
        """Seconds until the next fetch: ever more of them while the issuer does not answer."""
        if not self._outage.lasts:
            self._delay = RETRY[0]
            return self._refresh * random.uniform(0.9, 1.1)
        delay, self._delay = self._delay, min(self._delay * 2, RETRY[1])
        return delay * random.uniform(0.5, 1.5)

    async def _look_now(self) -> None:
        """Joins the fetch that is under way, or begins one."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._fetch())
        await asyncio.shield(self._look)

    async def _fetch(self) -> None:
        self._looked_at = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(_TIMEOUT):
                raw = await self._read()
            keys = dict(_usable(orjson.loads(raw)))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
            self._outage.begin(one_line(error))
            return
        self._outage.end()
        self._keys = keys
        if raw != self._raw:
            self._raw = raw
            self._on_change()

    async def _read(self) -> bytes:
        assert self._http is not None, "it has been started"
        raw = bytearray()
        async with self._http.stream("GET", self._url) as response:
            if response.status_code != 200:  # a redirect too: it leads to an address that nobody has set
                raise ValueError(f"status {response.status_code}")
            async for piece in response.aiter_bytes():
                raw += piece
                if len(raw) > _MOST_BYTES:
                    raise ValueError("more than a set of keys")
        return bytes(raw)


def _usable(document: Any) -> Iterator[tuple[str | None, Key]]:
    """The keys for algorithms that are accepted here. Raises ValueError for what is no set of keys."""
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or len(keys) > _MOST_KEYS:
        raise ValueError("not a set of keys")
    for key in keys:
        algorithm = _algorithm(key) if isinstance(key, dict) else None
        if algorithm is not None:
            with suppress(PyJWTError):  # a broken key does not spoil the others
                kid = key.get("kid")
                yield kid if isinstance(kid, str) else None, Key(PyJWK(key, algorithm).key, algorithm)


def _algorithm(key: Mapping[str, Any]) -> str | None:
    kind, curve = key.get("kty"), key.get("crv")
    algorithm = _ALGORITHMS.get((kind, curve)) if isinstance(kind, str) and isinstance(curve, str | None) else None
    if key.get("use", "sig") != "sig" or key.get("alg", algorithm) != algorithm:
        return None
    return algorithm
