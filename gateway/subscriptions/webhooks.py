"""An attempt to deliver a wake to a webhook (§7.1): the request, its signature, and the meaning of the answer.

Knows HTTP and addresses, not the database. The other side is not trusted: no redirect is followed and no proxy used;
the address is judged after its name has been resolved, and the connection goes to that very address; time and bytes are
limited, those of interim answers (1xx) and of headers included.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

import httpcore
import httpx
import orjson

from gateway.protocol.target import tenant_of
from gateway.subscriptions.attempts import TIMEOUT, Outcome
from gateway.subscriptions.errors import Refusal
from gateway.subscriptions.records import Delivery
from gateway.subscriptions.resolver import Resolver
from gateway.subscriptions.signing import Keys
from gateway.subscriptions.targets import check_webhook_url, choose_address

_MOST_ANSWER: Final = 64 << 10  # bytes of an answer's body that are read
_MOST_READ: Final = 192 << 10  # bytes that a connection reads in all
_FAULTS: Final = httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException


class Webhooks:
    """Makes attempts. `describe` gives a wake's body, `resolve` the addresses of a tenant's host; `tls`: whom to trust,
    instead of the public authorities.
    """

    def __init__(
        self,
        describe: Callable[[Delivery, Keys], dict[str, Any]],
        *,
        allow_local: bool,
        resolve: Callable[[str, str], Awaitable[Sequence[str]]] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._describe = describe
        self._allow_local = allow_local
        self._resolve = resolve or Resolver().resolve
        # Connections are not reused: each is for the one name that its certificate was checked for.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls, max_connections=None, max_keepalive_connections=0, network_backend=_Bounded()
        )

    async def close(self) -> None:
        await self._pool.aclose()

    async def deliver(self, delivery: Delivery, keys: Keys) -> tuple[Outcome, str]:
        """Makes the attempt. Returns its outcome and, for the log, the reason of a failure in words."""
        body = orjson.dumps(self._describe(delivery, keys))
        headers = {
            b"content-type": b"application/json",
            b"content-length": b"%d" % len(body),
            b"webhook-signature": keys.signer.sign(body, int(time.time())).encode(),
            b"accept": b"*/*",
            b"accept-encoding": b"identity",
            b"user-agent": b"run-gateway",
            b"connection": b"close",
        }
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self._post(delivery, body, headers)
        except (*_FAULTS, httpx.InvalidURL, OSError, UnicodeError, Refusal) as error:
            return Outcome.FAILED, f"{type(error).__name__}: {error}"

    async def _post(self, delivery: Delivery, body: bytes, headers: dict[bytes, bytes]) -> tuple[Outcome, str]:
        url = httpx.URL(check_webhook_url(delivery.url, allow_local=self._allow_local))
        host = url.raw_host.decode("ascii")
        address = choose_address(delivery.url, await self._resolve(tenant_of(delivery.id), host), delivery.failures)
        request = self._pool.stream(
            b"POST",
            httpcore.URL(
                scheme=url.raw_scheme,
                host=address.encode(),
                port=url.port or (80 if url.scheme == "http" else 443),
                target=url.raw_path,
            ),
            headers=[(b"host", url.netloc), *headers.items()],
            content=body,
            extensions={"sni_hostname": host},
        )
        async with request as response:
            if not 200 <= response.status < 300:
                return Outcome.FAILED, f"status {response.status}"
            done = _says_done(await _read(response))
            return (Outcome.DONE if done else Outcome.TAKEN), ""


class _Bounded(httpcore.AsyncNetworkBackend):
    """Opens connections that read a limited number of bytes, whatever HTTP makes of them: endless interim answers cost
    the loop more than their time.
    """

    def __init__(self) -> None:
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return _BoundedStream(await self._network.connect_tcp(host, port, timeout, local_address, socket_options))


class _BoundedStream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._left = _MOST_READ

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._left <= 0:
            raise httpcore.RemoteProtocolError(f"The answer has more than {_MOST_READ} bytes.")
        read = await self._stream.read(min(max_bytes, self._left), timeout)
        self._left -= len(read)
        return read

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return _BoundedStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


async def _read(response: httpcore.Response) -> bytes:
    """The answer's body; empty if it is longer than _MOST_ANSWER."""
    pieces: list[bytes] = []
    size = 0
    async for piece in response.aiter_stream():
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
