"""One attempt to deliver a wake to a webhook (§7.1): the request, its signature, and what the answer means.

Knows HTTP and addresses, not the database. The other side is not trusted: no redirect is followed and no proxy used;
the address is judged after its name has been resolved, and the connection goes to that very address; time and bytes
are limited.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import Any, Final

import httpx
import orjson

from gateway.subscriptions.errors import Refusal
from gateway.subscriptions.signing import Keys
from gateway.subscriptions.targets import check_webhook_url, choose_address
from gateway.subscriptions.values import Delivery

TIMEOUT: Final = 10.0  # seconds for the whole attempt
_MOST_ANSWER: Final = 64 << 10  # bytes of an answer that are read


class Outcome(Enum):
    """What came of an attempt."""

    DONE = "done"  # the handler has done its work already
    TAKEN = "taken"  # the handler has the wake, and will call back
    FAILED = "failed"


class Webhooks:
    """Makes attempts. `describe` gives a wake's body, `resolve` the addresses of a host."""

    def __init__(
        self,
        describe: Callable[[Delivery, Keys], dict[str, Any]],
        *,
        allow_local: bool,
        resolve: Callable[[str, int], Awaitable[Sequence[str]]] | None = None,
    ) -> None:
        self._describe = describe
        self._allow_local = allow_local
        self._resolve = resolve or resolve_host
        # Connections are not reused: each is for the one name that its certificate was checked for.
        self._client = httpx.AsyncClient(
            timeout=TIMEOUT,
            follow_redirects=False,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def deliver(self, delivery: Delivery, keys: Keys) -> tuple[Outcome, str]:
        """Makes the attempt. Returns its outcome and, for the log, the reason of a failure in words."""
        body = orjson.dumps(self._describe(delivery, keys))
        headers = {
            "content-type": "application/json",
            "webhook-signature": keys.signer.sign(body, int(time.time())),
            "accept-encoding": "identity",
            "user-agent": "run-gateway",
        }
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self._post(delivery, body, headers)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError, Refusal) as error:
            return Outcome.FAILED, f"{type(error).__name__}: {error}"

    async def _post(self, delivery: Delivery, body: bytes, headers: dict[str, str]) -> tuple[Outcome, str]:
        url = httpx.URL(check_webhook_url(delivery.url, allow_local=self._allow_local))
        port = url.port or (80 if url.scheme == "http" else 443)
        address = choose_address(delivery.url, await self._resolve(url.host, port), delivery.failures)
        headers["host"] = url.netloc.decode("ascii")
        request = self._client.stream(
            "POST",
            url.copy_with(host=address),
            content=body,
            headers=headers,
            extensions={"sni_hostname": url.raw_host.decode("ascii")},
        )
        async with request as response:
            if not response.is_success:
                return Outcome.FAILED, f"status {response.status_code}"
            done = _says_done(await _read(response))
            return (Outcome.DONE if done else Outcome.TAKEN), ""


async def resolve_host(host: str, port: int) -> Sequence[str]:
    """The addresses of a host, as the system's resolver gives them."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(info[4][0]) for info in infos]


async def _read(response: httpx.Response) -> bytes:
    """The answer's body; empty if it is longer than _MOST_ANSWER."""
    pieces: list[bytes] = []
    size = 0
    async for piece in response.aiter_raw():
        size += len(piece)
        if size > _MOST_ANSWER:
            return b""
        pieces.append(piece)
    return b"".join(pieces)


def _says_done(body: bytes) -> bool:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False  # an empty answer or some text: the handler has the wake
    return isinstance(answer, dict) and answer.get("done") is True
