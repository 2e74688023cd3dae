"""One caller's way to the log: a session that may be killed at any time, and what its errors mean."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import asyncpg

from loadtests.collisions.history import History

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

NAME = "collisions"  # of the sessions that may be killed
IMPATIENT = ("55P03", "57014")  # a lock or a statement took too long: nothing has changed
LIMITS = ("0", "0", "0", "50ms", "300ms", "1s")  # that a statement may have
_LOST = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresConnectionError)
_KILLED = "57P01"

Answer = TypeVar("Answer")


class Refused(Exception):
    """With an error that says that nothing has changed."""


class Unsure(Exception):
    """It may have happened, and it may not."""


class Session:
    """`ask` is given what to do with a connection, which is opened anew after each loss.

    `limits`: those that a statement may have there, of which one is drawn.
    """

    def __init__(self, url: str, history: History, rng: random.Random, limits: Sequence[str] = LIMITS) -> None:
        self._limits = limits
        self._url = url
        self._history = history
        self._rng = rng
        self._connection: Connection | None = None

    async def ask(
        self,
        what: str,
        work: Callable[[Connection], Awaitable[Answer]],
        *,
        expected: tuple[str, ...] = (),
        atomic: bool = True,
    ) -> Answer:
        """Its answer. Raises Refused and Unsure.

        `expected`: SQLSTATEs that the function may refuse it with. `atomic`: an error says that nothing has changed, as
        it does not where a procedure has committed before.
        """
        try:
            connection = await self._connected()
        except (asyncpg.PostgresError, *_LOST) as error:
            raise Refused from error
        try:
            return await work(connection)
        except asyncpg.PostgresError as error:
            state = error.sqlstate or "?"
            self._history.errors[state] += 1
            if isinstance(error, asyncpg.PostgresConnectionError) or state == _KILLED:
                await self.close()
                raise Unsure from error
            if state not in (*IMPATIENT, *expected):
                self._history.faults.append((state, f"{what} ({error})"))
            if atomic or state != "57014":
                raise Refused from error
            raise Unsure from error
        except _LOST as error:
            self._history.errors["lost"] += 1
            await self.close()
            raise Unsure from error

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            settings = {
                "application_name": NAME,
                "statement_timeout": self._rng.choice(self._limits),
                "lock_timeout": "1s",
            }
            self._connection = await asyncpg.connect(self._url, server_settings=settings)
        return self._connection
