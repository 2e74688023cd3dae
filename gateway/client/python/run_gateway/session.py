"""HTTP with patience: what may pass by itself is tried again, what will not is one error with one clear line.

It knows statuses and waits, nothing of what the requests mean.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import httpx

from run_gateway.errors import (
    ClientError,
    GaveUp,
    NoSuchStream,
    NotLetIn,
    Refused,
    StreamClosed,
    StreamGone,
    one_line,
)
from run_gateway.retry import RETRIED, Backoff, retry_after


class Trouble(NamedTuple):
    """A callback for each time that something is going to be tried again."""

    reason: str
    failures: int
    wait: float


class Answer(NamedTuple):
    """A response that is not a passing failure."""

    response: httpx.Response
    doubtful: bool
    """Whether an earlier attempt of the same request may have taken effect."""


def _silent(_: Trouble) -> None:
    pass


@dataclass(slots=True)
class Session:
    """The parts that all requests of one client share."""

    http: httpx.AsyncClient
    on_trouble: Callable[[Trouble], None] = _silent
    backoff: Callable[[], Backoff] = Backoff
    patience: float = 300.0
    """Seconds after which `send` gives up; following a stream never does."""

    async def send(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, content: bytes = b""
    ) -> Answer:
        """Sends one request until it is answered. Raises GaveUp."""
        backoff, doubtful = self.backoff(), False
        deadline = asyncio.get_running_loop().time() + self.patience
        while True:
            floor = 0.0
            try:
                response = await self.http.request(method, url, headers=headers, content=content)
            except httpx.RequestError as error:
                reason = one_line(error)
                doubtful |= not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
            else:
                if response.status_code not in RETRIED:
                    return Answer(response, doubtful)
                reason, floor = explain(response), retry_after(response)
                doubtful |= response.status_code != 429
            wait = backoff.next(floor)
            if asyncio.get_running_loop().time() + wait > deadline:
                unsure = "; whether it took effect is not known" if doubtful else ""
                raise GaveUp(f"{url}: {reason}; gave up {method} after {self.patience:g} seconds{unsure}")
            self.on_trouble(Trouble(f"{url}: {reason}", backoff.failures, wait))
            await asyncio.sleep(wait)

    async def head(self, url: str) -> httpx.Response:
        """Asks for a stream's headers. Raises ClientError."""
        response = (await self.send("HEAD", url)).response
        if response.status_code != 200:
            # The refusal of a HEAD has no body to say why: that of a GET has.
            response = (await self.send("GET", url)).response
        if response.status_code != 200:
            raise refusal(response)
        return response


def client(token: str | None = None) -> httpx.AsyncClient:
    """An HTTP client whose waits fit live responses: a Machine sends something at least every 8 seconds.

    `token`: a key, a JWT or a run's token, for a gateway that asks who comes; never sent on to another host.
    """
    return httpx.AsyncClient(
        timeout=httpx.Timeout(60.0, connect=10.0, pool=None),
        # A proxy that compresses withholds events until its window is full.
        headers={"user-agent": "run-gateway", "accept-encoding": "identity"}
        | ({} if token is None else {"authorization": f"Bearer {token}"}),
    )


def explain(response: httpx.Response) -> str:
    """The server's explanation of a refusal: its message and details when the body has them."""
    try:
        error = json.loads(response.content)["error"]
        said = f"{error['message']} {error.get('details') or ''}"
    except (ValueError, TypeError, KeyError, AttributeError):
        said = response.reason_phrase
    return f"{response.status_code} {' '.join(said.split())}".rstrip()


def refusal(response: httpx.Response) -> ClientError:
    """The error that an answer is, when it is none of those that were hoped for."""
    said = explain(response)
    text = f"{response.request.url}: {said}"
    if response.status_code == 401:
        return NotLetIn(text)
    if response.status_code == 404:
        return NoSuchStream(text)
    if response.status_code == 410:
        return StreamGone(text)
    if response.status_code in (403, 409) and response.headers.get("stream-closed") == "true":
        return StreamClosed(text if "closed" in said or response.status_code == 403 else f"{text}: it is closed")
    return Refused(text)
