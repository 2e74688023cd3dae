"""HTTP with patience: what may pass by itself is tried again, what will not is one error with one clear line.

It knows statuses and waits, nothing of what the requests mean.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from run_gateway.address import Place, place_of
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
from run_gateway.together import Alone, Together

logger = logging.getLogger("run_gateway")


class Trouble(NamedTuple):
    """The argument of a callback each time that something is going to be tried again: why, how often it has failed in a
    row, and in how many seconds.
    """

    reason: str
    failures: int
    wait: float


class Answer(NamedTuple):
    """A response that is not a passing failure."""

    response: httpx.Response
    doubtful: bool
    """Whether an earlier attempt of the same request may have taken effect."""


class Outcome(NamedTuple):
    """The outcome of an append, by a request of its own or by one of many. `headers` have lower-case names."""

    url: str
    status: int
    headers: Mapping[str, str]
    said: str
    doubtful: bool


def _silent(_: Trouble) -> None:
    pass


@dataclass(slots=True)
class Shared:
    """The state that sessions of one HTTP client share: gateways that have answered, appends that go together."""

    answered: set[str] = field(default_factory=set)
    waiting: bool = False
    writers: int = 0
    together: dict[str, Together] = field(default_factory=dict)

    def told(self, trouble: Trouble) -> None:
        """Says once that something is waited for."""
        if not self.waiting:
            self.waiting = True
            logger.warning("%s; it is tried again until it works, or patience ends.", trouble.reason)

    def came(self, origin: str) -> None:
        """Takes note that a gateway, or a proxy before it, has answered."""
        self.answered.add(origin)
        if self.waiting:
            self.waiting = False
            logger.warning("%s answers.", origin)


@dataclass(slots=True)
class Session:
    """The parts that all requests of one client share."""

    http: httpx.AsyncClient
    on_trouble: Callable[[Trouble], None] = _silent
    backoff: Callable[[], Backoff] = Backoff
    patience: float = 300.0
    """Seconds after which `send` gives up; following a stream never does."""
    contact: float | None = None
    """The same for a gateway that has not answered anything yet: a wrong address is soon found out."""
    shared: Shared = field(default_factory=Shared)

    async def send(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, content: bytes = b""
    ) -> Answer:
        """Sends one request until it is answered. Raises GaveUp."""
        tries = _Tries(self, method, url)
        while True:
            try:
                response = await self.http.request(method, url, headers=headers, content=content)
            except httpx.RequestError as error:
                await tries.lost(error)
            else:
                self.shared.came(tries.origin)
                if response.status_code not in RETRIED:
                    return Answer(response, tries.doubtful)
                await tries.failed(explain(response), response.status_code, retry_after(response))

    async def append(self, url: str, headers: Mapping[str, str], body: bytes, events: int = 1) -> Outcome:
        """Posts so many JSON events, or a heartbeat, until there is an answer. Where others write too, theirs go along.

        Raises GaveUp.
        """
        tries = _Tries(self, "POST", url)
        while self.shared.writers > 1:
            place = place_of(url)
            together = None if place is None else self._together(place)
            if together is None:
                break
            assert place is not None
            try:
                told = await together.append(place.stream, headers, body, events)
            except Alone:
                break
            except httpx.RequestError as error:
                await tries.lost(error)
                continue
            self.shared.came(tries.origin)
            if told.status not in RETRIED:
                return Outcome(url, told.status, told.headers, told.said, tries.doubtful)
            wait = told.headers.get("retry-after", "")
            await tries.failed(told.said, told.status, float(wait) if wait.isdigit() else 0.0)
        response, doubtful = await self.send("POST", url, {"content-type": "application/json", **headers}, body)
        return Outcome(url, response.status_code, response.headers, explain(response), doubtful or tries.doubtful)

    def _together(self, place: Place) -> Together | None:
        together = self.shared.together.get(place.base)
        if together is None:
            together = self.shared.together[place.base] = Together(self.http, place.base)
        return together if together.known_there else None

    async def head(self, url: str) -> httpx.Response:
        """Asks for a stream's headers. Raises ClientError."""
        response = (await self.send("HEAD", url)).response
        if response.status_code != 200:
            # The refusal of a HEAD has no body to say why: that of a GET has.
            response = (await self.send("GET", url)).response
        if response.status_code != 200:
            raise refusal(response)
        return response


class _Tries:
    """The attempts of one request: how long it may still take, and whether one of them may have taken effect."""

    def __init__(self, session: Session, method: str, url: str) -> None:
        parts = urlsplit(url)
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.doubtful = False
        self._session = session
        self._url = url
        self._method = method
        self._backoff = session.backoff()
        self._began = asyncio.get_running_loop().time()

    async def lost(self, error: httpx.RequestError) -> None:
        """Notes that there was no answer. Waits, or raises GaveUp."""
        self.doubtful |= not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        await self._wait(one_line(error), 0.0)

    async def failed(self, said: str, status: int, floor: float) -> None:
        """Notes an answer that tells of trouble that may pass. Waits, or raises GaveUp."""
        self.doubtful |= status != 429
        await self._wait(said, floor)

    async def _wait(self, reason: str, floor: float) -> None:
        session, clock = self._session, asyncio.get_running_loop().time
        patience = session.patience
        if session.contact is not None and self.origin not in session.shared.answered:
            patience = min(patience, session.contact)
        reason = reason.removesuffix(".")  # more of the sentence comes
        wait = self._backoff.next(floor)
        if clock() + wait > self._began + patience:
            unsure = "; whether it took effect is not known" if self.doubtful else ""
            raise GaveUp(f"{self._url}: {reason}; gave up {self._method} after {patience:g} seconds{unsure}")
        session.on_trouble(Trouble(f"{self._url}: {reason}", self._backoff.failures, wait))
        await asyncio.sleep(wait)


def client(token: str | None = None) -> httpx.AsyncClient:
    """An HTTP client whose waits fit live responses: a Machine sends something at least every 8 seconds.

    `token`: a key, a JWT or a run's token, for a gateway that asks who comes; never sent on to another host.
    """
    return httpx.AsyncClient(
        timeout=httpx.Timeout(60.0, connect=10.0, pool=None),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
        # A proxy that compresses withholds events until its window is full.
        headers={"user-agent": "run-gateway", "accept-encoding": "identity"}
        | ({} if token is None else {"authorization": f"Bearer {token}"}),
    )


def explain(response: httpx.Response) -> str:
    """The server's explanation of a refusal: its message and details when the body has them."""
    try:
        said = told(json.loads(response.content)["error"])
    except (ValueError, TypeError, KeyError, AttributeError):
        said = response.reason_phrase
    return f"{response.status_code} {' '.join(said.split())}".rstrip()


def told(error: Mapping[str, str | None]) -> str:
    """The words of a refusal. Raises KeyError, TypeError, AttributeError for what is none."""
    return f"{error['message']} {error.get('details') or ''}"


def refusal(response: httpx.Response) -> ClientError:
    """The error that an answer is, when it is none of those that were hoped for."""
    return error_of(str(response.request.url), response.status_code, response.headers, explain(response))


def error_of(url: str, status: int, headers: Mapping[str, str], said: str) -> ClientError:
    """The error that a refusal is."""
    text = f"{url}: {said}"
    if status == 401:
        return NotLetIn(text)
    if status == 404:
        return NoSuchStream(text)
    if status == 410:
        return StreamGone(text)
    if status in (403, 409) and headers.get("stream-closed") == "true":
        return StreamClosed(text if "closed" in said or status == 403 else f"{text}: it is closed")
    return Refused(text)
