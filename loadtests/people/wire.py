"""HTTP as the load's users speak it: keep-alive calls, and streams that can be left at any byte; all of it counted.

`http.client` rather than locust's own clients: a stream is read line by line, with a deadline, and dropped on purpose.
"""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from locust.env import Environment

TIMEOUT = 45.0  # seconds: longer than a long-poll waits and a heartbeat takes
FAULTS = (OSError, http.client.HTTPException)
KEY = {"Authorization": f"Bearer {os.environ['LOAD_KEY']}"} if os.environ.get("LOAD_KEY") else {}


@dataclass(frozen=True)
class Answer:
    """A whole response; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Refused(Exception):
    """A status that says no."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"{status}: {body[:200].decode(errors='replace')}")
        self.status = status


class Wire:
    """The connections of one user to one gateway."""

    def __init__(self, environment: Environment, host: str) -> None:
        self.host = host
        self._environment = environment
        self._kept: http.client.HTTPConnection | None = None

    def call(self, name: str, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """One request, counted as `method name`. Raises Refused, OSError, HTTPException; the last two close."""
        began = time.perf_counter()
        try:
            answer = self._call(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
            if answer.status >= 400:
                raise Refused(answer.status, answer.body)
        except (Refused, *FAULTS) as error:
            self.close()
            self.tell(method, name, began, error)
            raise
        self.tell(method, name, began)
        return answer

    def lines(self, name: str, path: str, until: float) -> Iterator[bytes]:
        """The lines of a stream, to its clean end or to `until` on the monotonic clock, when it is dropped.

        Counted when it begins. Raises Refused, OSError, HTTPException; a stream that is cut off is counted as failed.
        """
        began = time.perf_counter()
        with closing(self._connect()) as connection:
            try:
                connection.request("GET", path, headers={"Accept": "text/event-stream"} | KEY)
                response = connection.getresponse()
                if response.status != 200:
                    raise Refused(response.status, response.read())
            except (Refused, *FAULTS) as error:
                self.tell("GET", name, began, error)
                raise
            self.tell("GET", name, began)
            try:
                yield from self._until(connection, response, until)
            except FAULTS as error:
                self.tell("STREAM", f"{name}, cut off", began, error)
                raise

    def tell(self, kind: str, name: str, began: float, error: Exception | None = None) -> None:
        """Counts something that took from `began` until now."""
        self.count(kind, name, (time.perf_counter() - began) * 1000, error)

    def count(self, kind: str, name: str, milliseconds: float, error: Exception | None = None) -> None:
        """Counts something that took so long."""
        request: Any = self._environment.events.request  # locust's own types end here
        request.fire(
            request_type=kind, name=name, response_time=milliseconds, response_length=0, exception=error, context={}
        )

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _connect(self) -> http.client.HTTPConnection:
        address = urlsplit(self.host)
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        return kind(address.netloc, timeout=TIMEOUT)

    def _call(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        if self._kept is None:
            self._kept = self._connect()
        self._kept.request(method, path, body, {**KEY, **headers})
        response = self._kept.getresponse()
        read = response.read()
        if response.will_close:
            self.close()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, read)

    def _until(
        self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse, until: float
    ) -> Iterator[bytes]:
        assert connection.sock is not None, "it is open as long as its response"
        while (left := until - time.monotonic()) > 0:
            connection.sock.settimeout(min(left, TIMEOUT))
            with suppress(TimeoutError):
                line = response.readline()
                if not line and response.chunk_left is not None:
                    # The library takes a body that is cut between two chunks for a whole one; law 9 does not.
                    raise http.client.IncompleteRead(b"")
                if not line:
                    return
                yield line
                continue
            if time.monotonic() < until:
                raise TimeoutError(f"no byte, not even a heartbeat, for {TIMEOUT:g} s")
