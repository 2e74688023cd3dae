"""The one LISTEN connection of a Machine: self-test, heartbeat, reconnect, then "everyone look again".

A nonce that is sent through the pool must come back here. Where it does not (a pooler in transaction mode accepts
LISTEN and delivers nothing), the log is polled, and the listener goes on trying.

Any role of a database may notify on a channel whose name it knows. News is believed on the secret channel, whose name
only roles that may write events know; on the public one it is a hint to look.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Literal

from gateway.feed import Feed
from gateway.log.connect import FAULTS, LogConnection, connect
from gateway.log.database import Database
from gateway.log.listen_address import host_of
from gateway.log.machines import Machines
from gateway.log.payload import KNOWS, is_sign, parse_all, parse_news, parse_sign, sign_of_life
from gateway.protocol.errors import Unavailable
from gateway.tasks import end, forever, kept

logger = logging.getLogger("gateway.log.listener")

CHANNEL = "run_gateway"  # the one that everybody knows
_ECHO_TIMEOUT = 2.0  # seconds for a nonce to come back; three are tried
_LISTEN = "SELECT run_gateway.listen()"
_NOTIFY = "SELECT run_gateway.ping($1)"
_PATIENCE = 3.0  # seconds in which a connection that is lost may come back without a word
_RETRY = (0.1, 5.0)  # seconds between attempts to connect, from and to


class Listener:
    """Receives other Machines' news. `news` is "listen" or "polling": how it arrives at the moment.

    `addresses`: where to try LISTEN, best first; each is used only after a nonce has come back. `heartbeat`: seconds.
    `feed` is given the news, and each moment from which on it arrives in another way.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        database: Database,
        *,
        machine: str,
        heartbeat: float,
        feed: Feed,
    ) -> None:
        self.others: Final = Machines(machine)
        self.lists: Callable[[], bool] = lambda: False  # whether somebody follows a list of runs here
        self.news: Literal["listen", "polling"] = "polling"
        self.heard = 0  # notifications of others
        self.hints = 0  # notifications on the channel that everybody knows
        self.lost = 0  # connections that had worked
        self.queue_usage: float | None = None  # of the server's notification queue, 0 to 1, as of the last heartbeat
        self._addresses = addresses
        self._database = database
        self._machine = machine
        self._own = (f"{machine}\n", f"{KNOWS}{machine}\n")
        self._heartbeat = heartbeat
        self._feed = feed
        self._delay = _RETRY[0]  # until the next attempt to connect
        self._said: str | None = ""  # why there is no connection; None: nothing was said since there was one
        self._lost_at = float("-inf")
        self._nonce = ""
        self._echo = asyncio.Event()
        self._doubt = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._greetings: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Tries once, then keeps at it in the background: a Machine without LISTEN polls, and serves."""
        ready = asyncio.Event()
        self._task = kept("listener", lambda: self._run(ready))
        await ready.wait()

    def tell_of_lists(self) -> None:
        """Tells the others at once that somebody follows a list of runs here."""
        self._begin_greeting()

    async def stop(self) -> None:
        await end(self._task, *self._greetings)

    async def _run(self, ready: asyncio.Event) -> None:
        await forever("Listening", lambda: self._attempt(ready), self._next_delay)

    def _next_delay(self) -> float:
        delay, self._delay = self._delay, min(self._delay * 2, _RETRY[1])
        return delay * random.uniform(0.5, 1.5)

    async def _attempt(self, ready: asyncio.Event) -> None:
        """Listens where it works, for as long as it does; then the log is polled, until the next attempt."""
        try:
            for address in self._addresses:
                try:
                    await self._listen(address, address is self._addresses[-1], ready)
                except (*FAULTS, Unavailable) as error:
                    self._say(f"{type(error).__name__}, {host_of(address)}")
                    if self.news == "listen":
                        break  # it has worked here, and will again
                except Exception:
                    # A defect at one address must not keep this Machine from the others, nor from starting.
                    logger.exception(
                        "Listening at %s failed unexpectedly: other Machines' events are polled for, and arrive later.",
                        host_of(address),
                    )
        finally:
            self._set("polling")
            ready.set()

    def _say(self, what: str) -> None:
        if self.news == "listen":
            self.lost += 1
            self._delay = _RETRY[0]
            self._lost_at = time.monotonic()
        elif what != self._said and not self._database.away.lasts and time.monotonic() > self._lost_at + _PATIENCE:
            self._said = what
            logger.warning(
                "No listening connection (%s): other Machines' events are polled for, and arrive later.", what
            )

    async def _listen(self, address: str, last: bool, ready: asyncio.Event) -> None:
        """Listens on one connection, until it has failed or another address may be better."""
        connection: LogConnection = await connect(address, timeout=10, command_timeout=10)
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: lost.set())
            await self._database.meet(connection)  # before anything is heard: what is remembered may be of another log
            await self._listen_secretly(connection)
            await connection.add_listener(CHANNEL, self._hear_hint)
            while True:
                self.others.forget(3 * self._heartbeat)
                if await self._echoes(connection):
                    if self._said is not None:
                        logger.info("LISTEN works at %s: events of other Machines arrive at once.", host_of(address))
                        self._said = None
                    self._set("listen")
                elif self.news == "polling":
                    # LISTEN is accepted and nothing arrives: a pooler. Stay with polling, and try again later.
                    if not ready.is_set():
                        where = host_of(address)
                        logger.warning("A notification sent through the pool does not arrive on LISTEN (%s).", where)
                    if not last:
                        return
                    ready.set()
                else:
                    raise TimeoutError  # it worked before, so the connection is most likely half-open
                ready.set()
                await self._rest(lost)
                if lost.is_set():
                    raise ConnectionError
                await self._database.meet(connection)
                if self.news == "polling" and len(self._addresses) > 1:
                    return
        finally:
            connection.terminate()

    async def _listen_secretly(self, connection: LogConnection) -> None:
        """Listens on the channel whose name is not for everybody. The driver's own way has it in a statement of the
        session, which roles that watch a server can see.
        """
        channel: str = await connection.fetchval(_LISTEN)
        connection._listeners[channel] = set()  # type: ignore[attr-defined]  # as after its LISTEN
        await connection.add_listener(channel, self._hear)

    async def _rest(self, lost: asyncio.Event) -> None:
        """Until the next heartbeat, or sooner when the connection is lost or may lead to a server that is overtaken."""
        reasons = [asyncio.ensure_future(lost.wait()), asyncio.ensure_future(self._doubt.wait())]
        try:
            await asyncio.wait(reasons, timeout=self._heartbeat, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for reason in reasons:
                reason.cancel()
        self._doubt.clear()

    def doubt(self) -> None:
        """Asks whether this connection leads to the log's server, since the log is on another server now."""
        self._doubt.set()

    async def _echoes(self, connection: LogConnection) -> bool:
        for _ in range(3):
            self._echo.clear()
            self._nonce = secrets.token_hex(8)
            await self._ping()
            if self._doubt.is_set():  # that went to another server than this connection leads to, or may have
                self._doubt.clear()
                await self._database.meet(connection)
            with suppress(TimeoutError):
                async with asyncio.timeout(_ECHO_TIMEOUT):
                    await self._echo.wait()
                return True
        return False

    async def _ping(self) -> None:
        """Notifies every Machine, this one included, that this one is there."""
        # On a connection that is new: an old one may lead to a server that others have left.
        async with self._database.acquire(at_most=self._heartbeat) as connection:
            sign = sign_of_life(self._machine, self._nonce, lists=self.lists())
            self.queue_usage = await connection.fetchval(_NOTIFY, sign)

    def _begin_greeting(self) -> None:
        greeting = asyncio.create_task(self._greet(), name="greeting")
        self._greetings.add(greeting)  # the loop holds tasks only weakly
        greeting.add_done_callback(self._greetings.discard)

    async def _greet(self) -> None:
        """Tells a new Machine that it is not alone."""
        with suppress(Unavailable):  # then the next heartbeat tells it
            await self._ping()

    def _set(self, news: Literal["listen", "polling"]) -> None:
        if news != self.news:
            self.news = news
            self.others.begin(listens=news == "listen")
            self._feed.missed()  # what was notified meanwhile was not heard, and has to be read

    def _hear(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        text = str(payload)
        if text.startswith(self._own):  # this Machine's own commits were reported when they were made
            if is_sign(text, self._nonce):
                self._echo.set()
            return
        self.heard += 1
        sign = parse_sign(text)
        if sign is not None:
            if self.others.heard(sign):
                self._begin_greeting()
            return
        all_news = parse_all(text, time.monotonic())
        if len(all_news) > 1:
            with self._feed.together():
                self._feed.heard.each(all_news)
        else:
            self._feed.heard.each(all_news)

    def _hear_hint(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        text = str(payload)
        if text.startswith(self._own):
            return
        self.hints += 1
        sign = parse_sign(text)
        if sign is not None:
            if self.others.heard_in_public(sign):
                self._begin_greeting()
            return
        news = parse_news(text)
        if news is not None:
            self._feed.hinted(news)
