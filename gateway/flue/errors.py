"""Refusals as Flue words them (`runtime/errors.ts`), and what makes a database unfit to be read as Flue's."""

from __future__ import annotations

from gateway.protocol.errors import MethodNotAllowed, StreamNotFound


class NoSuchRun(StreamNotFound):
    """There is no such run, or it may not be read here, which a client cannot tell apart."""

    type = "run_not_found"

    def __init__(self, run_id: str) -> None:
        super().__init__("Verify the run id is correct and its history is still available.")
        self._run_id = run_id

    @property
    def message(self) -> str:
        return f'Run "{self._run_id}" was not found.'


class ReadOnly(MethodNotAllowed):
    """A run of Flue's is written by Flue alone."""

    def __init__(self, method: str) -> None:
        super().__init__('This endpoint accepts "GET", "HEAD" only.', [(b"allow", b"GET, HEAD")])
        self._method = method

    @property
    def message(self) -> str:
        return f"HTTP method {self._method} is not allowed on this endpoint."


class Unfit(Exception):
    """The database cannot be read as a Flue app's; the message is one line and says why."""
