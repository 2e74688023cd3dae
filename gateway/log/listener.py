"""The one LISTEN connection of a Machine: self-test, heartbeat, reconnect, then "everyone look again".

A nonce sent through the pool must come back here. Where it does not (a pooler in transaction mode swallows LISTEN
without an error), news arrives by polling, and this goes on trying.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import asyncpg

from gateway.log.database import FAULTS, Connection, Database
from gateway.protocol.batch import News
from gateway.protocol.errors import Unavailable

logger = logging.getLogger("gateway.log.listener")

CHANNEL = "run_gateway"
_ECHO_TIMEOUT = 2.0  # seconds for a nonce to come back, three times
_RETRY = (0.1, 5.0)  # seconds between attempts to connect, from and to


class Listener:
    """Hears other Machines' news. `news` is "listen" or "polling": how it arrives at the moment."""

    def __init__(
        self,
        dsn: str,
        database: Database,
        *,
        machine: str,
        heartbeat: float,
        on_news: Callable[[News], None],
        on_change: Callable[[], None],
    ) -> None:
        self.news: Literal["listen", "polling"] = "polling"
        self.heard = 0
        self._dsn = dsn
        self._database = database
        self._own = machine + "\n"
        self._heartbeat = heartbeat
        self._on_news = on_news
        self._on_change = on_change
        self._nonce = ""
        self._echo = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Tries once, then keeps at it in the background: a Machine without LISTEN polls, and serves."""
        ready = asyncio.Event()
        self._task = asyncio.create_task(self._run(ready))
        await ready.wait()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self, ready: asyncio.Event) -> None:
        delay = _RETRY[0]
        while True:
            try:
                await self._listen(ready)
                delay = _RETRY[0]
            except (*FAULTS, Unavailable) as error:
                logger.warning("The listening connection is lost (%s); polling.", type(error).__name__)
            self._set("polling")
            ready.set()
            await asyncio.sleep(delay * random.uniform(0.5, 1.5))
            delay = min(delay * 2, _RETRY[1])

    async def _listen(self, ready: asyncio.Event) -> None:
        """One connection's life: returns or raises when it is no good any more."""
        connection: Connection = await asyncpg.connect(self._dsn, timeout=10, command_timeout=10)
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(CHANNEL, self._hear)
            while True:
                if await self._echoes():
                    self._set("listen")
                elif self.news == "polling":
                    # LISTEN is accepted and nothing arrives: a pooler. Stay with polling, and try again later.
                    logger.warning("A notification sent through the pool does not arrive on LISTEN; polling.")
                    ready.set()
                else:
                    raise TimeoutError  # it worked before: a half-open connection, most likely
                ready.set()
                with suppress(TimeoutError):
                    await asyncio.wait_for(lost.wait(), self._heartbeat)
                if lost.is_set():
                    raise ConnectionError
        finally:
            connection.terminate()

    async def _echoes(self) -> bool:
        for _ in range(3):
            self._echo.clear()
            self._nonce = secrets.token_hex(8)
            payload = f"\n\n0\n0\nping {self._nonce}"
            async with self._database.acquire() as connection:
                await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, payload)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._echo.wait(), _ECHO_TIMEOUT)
                return True
        return False

    def _set(self, news: Literal["listen", "polling"]) -> None:
        if news != self.news:
            self.news = news
            logger.info("News arrives by %s.", news)
            self._on_change()  # what was said while nobody listened has to be read

    def _hear(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        text = str(payload)
        if text.startswith(self._own):
            return  # this Machine's own commits were told of when they landed
        self.heard += 1
        if text.startswith("\n\n0\n0\nping "):
            if text.endswith(self._nonce):
                self._echo.set()
            return
        news = parse_news(text)
        if news is not None:
            self._on_news(news)


def parse_news(payload: str) -> News | None:
    """A notification's payload as run_gateway.news writes it; None when it is none of that."""
    fields = payload.split("\n", 5)
    try:
        _, path, first, last, state, *body = fields
        return News(
            path,
            int(first),
            int(last),
            closed=state == "closed",
            deleted=state == "deleted",
            body=body[0].encode() if body else None,
        )
    except ValueError:
        return None
