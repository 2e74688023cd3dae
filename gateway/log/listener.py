"""The one LISTEN connection of a Machine: self-test, heartbeat, reconnect, then "everyone look again".

A nonce that is sent through the pool must come back here. Where it does not (a pooler in transaction mode accepts
LISTEN and delivers nothing), the log is polled, and the listener goes on trying.

Any role of a database may notify on a channel whose name it knows. News is believed on the secret channel, whose name
only roles that may write events know; on the public one it is a hint to look. There, too, are the signs of life of
Machines of the version before, which know no other channel: while there are any, appends are notified there as well.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal

from gateway.feed import Feed
from gateway.log.connect import FAULTS, LogConnection, connect
from gateway.log.database import Database
from gateway.log.listen_address import host_of
from gateway.protocol.batch import News
from gateway.protocol.errors import Unavailable
from gateway.tasks import end, forever, kept

logger = logging.getLogger("gateway.log.listener")

CHANNEL = "run_gateway"  # the one that everybody knows
_ECHO_TIMEOUT = 2.0  # seconds for a nonce to come back; three are tried
_ALONE_AFTER = 3.0  # seconds of listening, without hearing of another Machine, until there is none
_PING = "\n\n0\n0\nping "
_LISTS = "lists "  # in the sign of life of a Machine at which somebody follows a list of runs
_SEVERAL = "several "  # in that of a Machine that reads notifications of several streams
_DIGITS = 6  # of a length, and its line end
_TOGETHER = "*"  # which have this in the place of a path
_LISTEN = "SELECT run_gateway.listen()"
_NOTIFY = "SELECT run_gateway.ping($1)"
_KNOWS = "="  # what the name of a Machine begins with, in what it says, that knows both channels: see run_gateway.tell
_MOST_BEFORE = 32  # Machines of the version before that are remembered: anybody may say that they are one
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
        self.lists: Callable[[], bool] = lambda: False  # whether somebody follows a list of runs here
        self.news: Literal["listen", "polling"] = "polling"
        self.heard = 0  # notifications of others
        self.hints = 0  # notifications on the channel that everybody knows
        self.lost = 0  # connections that had worked
        self.queue_usage: float | None = None  # of the server's notification queue, 0 to 1, as of the last heartbeat
        self._addresses = addresses
        self._database = database
        self._machine = machine
        self._own = (f"{machine}\n", f"{_KNOWS}{machine}\n")
        self._others: dict[str, float] = {}  # Machines, and when they were last heard of
        self._listing: dict[str, float] = {}  # those of them at which somebody follows a list of runs
        self._singly: dict[str, float] = {}  # those of them that read of one stream at a time
        self._before: dict[str, float] = {}  # the same of Machines of the version before
        self._alone_after = 0.0
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

    @property
    def notified_by(self) -> str | None:
        """This Machine's name in its notifications; None: no other Machine listens, so that none has to be notified.
        Where that is in doubt, they are.
        """
        alone = not self._others and self._knows_others and not self._before
        return None if alone else self.machine

    @property
    def others_list(self) -> bool:
        """True if somebody follows a list of runs at another Machine, which has to hear of each run that is made."""
        return bool(self._listing)

    def tell_of_lists(self) -> None:
        """Tells the others at once that somebody follows a list of runs here."""
        self._begin_greeting()

    @property
    def machine(self) -> str:
        """This Machine's name in its notifications: the beginning of the name says which channels they go to."""
        return self._machine if self._before or not self._knows_others else _KNOWS + self._machine

    @property
    def together(self) -> bool:
        """True if every other Machine reads notifications of several streams."""
        return self._knows_others and not self._singly and not self._before

    @property
    def _knows_others(self) -> bool:
        """True if it has listened for so long that every other Machine has been heard of."""
        return self.news == "listen" and time.monotonic() > self._alone_after

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
                self._forget()
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
            lists = _LISTS if self.lists() else ""
            said = f"{_KNOWS}{self._machine}{_PING}{lists}{_SEVERAL}{self._nonce}"
            self.queue_usage = await connection.fetchval(_NOTIFY, said)

    def _forget(self) -> None:
        """Forgets Machines that have been silent for three heartbeats."""
        old = time.monotonic() - 3 * self._heartbeat
        self._others = {machine: heard for machine, heard in self._others.items() if heard > old}
        self._listing = {machine: heard for machine, heard in self._listing.items() if heard > old}
        self._singly = {machine: heard for machine, heard in self._singly.items() if heard > old}
        self._before = {machine: heard for machine, heard in self._before.items() if heard > old}

    def _met(self, machine: str, known: dict[str, float]) -> None:
        if machine not in known:
            self._begin_greeting()
        known[machine] = time.monotonic()

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
            self._alone_after = time.monotonic() + _ALONE_AFTER
            self._feed.missed()  # what was notified meanwhile was not heard, and has to be read

    def _hear(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        text = str(payload)
        if text.startswith(self._own):  # this Machine's own commits were reported when they were made
            if text.endswith(self._nonce) and _PING in text:
                self._echo.set()
            return
        self.heard += 1
        machine, ping, said = _parted(text)
        if ping:
            self._met(machine, self._others)
            lists, _, several = said.rpartition(_SEVERAL) if _SEVERAL in said else (said, "", None)
            for names, named in ((self._listing, lists.startswith(_LISTS)), (self._singly, several is None)):
                if named:
                    names[machine] = time.monotonic()
                else:
                    names.pop(machine, None)
            return
        now = time.monotonic()
        for news in parse_all(text):
            news.heard = now
            self._feed.heard(news)

    def _hear_hint(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        text = str(payload)
        if text.startswith(self._own):
            return
        self.hints += 1
        machine, ping, _ = _parted(text)
        if ping:
            if not machine.startswith(_KNOWS) and (machine in self._before or len(self._before) < _MOST_BEFORE):
                self._met(machine, self._before)
            return
        news = parse_news(text)
        if news is not None:
            self._feed.hinted(news)


def _parted(payload: str) -> tuple[str, bool, str]:
    """Splits a payload: the Machine's name, whether it is a sign of life, and what that says besides. An event may look
    like one; its path is between it and the Machine's name.
    """
    machine, ping, said = payload.partition(_PING)
    return machine, bool(ping) and "\n" not in machine, said


def parse_all(payload: str) -> list[News]:
    """The news in a notification's payload, of one stream or of several; none if it is something else."""
    machine, _, said = payload.partition("\n")
    if not said.startswith(f"{_TOGETHER}\n"):
        news = parse_news(payload)
        return [] if news is None else [news]
    all_news: list[News] = []
    at = len(_TOGETHER) + 1
    while at < len(said):
        length, end, _ = said[at : at + _DIGITS].partition("\n")
        if not end or not length.isdecimal():
            return []
        at += len(length) + 1
        news = parse_news(f"{machine}\n{said[at : at + int(length)]}")
        if news is None:
            return []
        all_news.append(news)
        at += int(length)
    return all_news


def parse_news(payload: str) -> News | None:
    """The news in a notification's payload, as run_gateway.news writes it; None if it is something else."""
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
