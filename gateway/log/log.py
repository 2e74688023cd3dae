"""The log as the application uses it: its parts made from the settings, asked by routes and by the hub."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from gateway.feed import Feed
from gateway.log import durability
from gateway.log.database import LANES, Database
from gateway.log.durability import Durability
from gateway.log.housekeeping import Housekeeping
from gateway.log.identity import Server
from gateway.log.lifecycle import Created, Lifecycle
from gateway.log.listener import Listener
from gateway.log.lists import Lists
from gateway.log.near import Near
from gateway.log.reader import Reader
from gateway.log.replica import Replica
from gateway.log.watermarks import Watermarks
from gateway.log.writer import Writer
from gateway.protocol.batch import News
from gateway.protocol.create import CreateRequest
from gateway.protocol.errors import Unavailable
from gateway.settings import Settings

logger = logging.getLogger("gateway.log")

COMPARISONS: Final = 30  # attempts, a second apart, to learn from a database that has just changed what it lacks
PROBE_TIMEOUT: Final = 2.0  # seconds that the database has to say that it is there


class Log:
    """A Machine's log. `addresses`: where to try LISTEN, best first. `feed` is given every change.

    `crowded`: as a Reader has it.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        addresses: Sequence[str],
        *,
        machine: str,
        feed: Feed,
        crowded: Callable[[], bool] = lambda: False,
    ) -> None:
        self.missing_events = 0  # that were shown here, and are not in the log of the server that took over
        self._database = database
        self._feed = feed
        self._lifecycle = Lifecycle(
            database,
            machine=machine,
            max_forks=settings.max_forks,
            max_fork_depth=settings.max_fork_depth,
            pack=settings.pack,
        )
        self.reader = Reader(
            database,
            page_bytes=settings.page_bytes,
            most=settings.max_reads,
            patience=settings.statement_timeout,
            crowded=crowded,
        )
        self.listener = Listener(
            addresses,
            database,
            machine=machine,
            heartbeat=settings.heartbeat,
            feed=feed,
        )
        self.writer = Writer(
            database,
            others=self.listener.others,
            lanes=LANES,
            timeout=settings.append_timeout,
            max_pending=settings.max_pending,
            pack=settings.pack,
            feed=feed,
        )
        self.housekeeping = Housekeeping(
            database,
            machine=machine,
            interval=settings.housekeeping_interval,
            pack=settings.pack,
            retention=settings.retention,
            recordings=settings.relay_retention,
        )
        self.append = self.writer.append
        self.submit = self.writer.submit
        self.submit_together = self.writer.submit_together
        self.stat = self.reader.stat
        self.near = self._make_near(settings, crowded)
        self.read = self.reader.read if self.near is None else self.near.read
        """Pages for readers, from where it is near."""
        self.live = self.reader.live if self.near is None else self.near.live
        self.fresh = self.reader.live if self.near is None else self.near.fresh
        """Pages for those who follow a stream; `fresh` ones are the primary's."""

    def _make_near(self, settings: Settings, crowded: Callable[[], bool]) -> Near | None:
        if settings.read_database_url is None:
            return None
        replica = Replica(
            settings.read_database_url,
            self._database,
            Watermarks(),
            listens=lambda: self.listens,
            pool_size=settings.pool_size,
            statement_timeout=settings.statement_timeout,
            max_age=settings.connection_max_age,
        )
        lists = Lists(replica, most=settings.max_lists, seconds=settings.list_timeout)
        there = Reader(replica, page_bytes=settings.page_bytes, most=settings.max_reads, crowded=crowded)
        return Near(replica, self.reader, there, lists)

    @property
    def listens(self) -> bool:
        """True if LISTEN works, so that nothing has to be polled for."""
        return self.listener.news == "listen"

    async def create(self, request: CreateRequest) -> Created:
        """Creates a stream or confirms it. Raises what `Lifecycle.create` raises."""
        created = await self._lifecycle.create(request)
        self.writer.bytes += created.copied
        if created.new:
            self._feed.created(request.path, created.tail)
        else:
            self._feed.stood(request.path, created.tail, created.closed)
        return created

    async def delete(self, path: str) -> None:
        """Deletes a stream. Raises what `Lifecycle.delete` raises."""
        await self._lifecycle.delete(path)
        self._feed.committed(News(path, 0, 0, deleted=True))

    async def tell_of_switch(self, before: Server, after: Server, shown: Mapping[str, tuple[int, int]]) -> None:
        """Tells the operator how far the log went back, as far as can be known: of streams that were followed here."""
        streams = events = 0
        for _ in range(COMPARISONS):
            try:
                streams, events = await self.reader.missing(shown)
            except Unavailable:
                await asyncio.sleep(1)
            else:
                break
        self.missing_events += events
        logger.error(
            "Another database server has taken over (timeline %s to %s, log epoch %d to %d): of %d streams that are"
            " followed here, %d lack %d events that were shown. Readers of what is lost are answered 410.",
            before.timeline,
            after.timeline,
            before.epoch,
            after.epoch,
            len(shown),
            streams,
            events,
        )

    async def durability(self) -> Durability | None:
        """The durability that the database promises; None if it does not answer within PROBE_TIMEOUT."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                async with self._database.acquire() as connection:
                    return await durability.ask(connection)
        except (Unavailable, TimeoutError):
            return None
