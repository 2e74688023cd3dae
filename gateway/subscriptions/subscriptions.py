"""Subscriptions as the application uses them: started, stopped, given the commits, and mounted as a router."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from gateway.feed import Commits
from gateway.http.bodies import Bodies
from gateway.log.database import Database
from gateway.log.turns import LongWork
from gateway.protocol.batch import News
from gateway.protocol.errors import Unavailable
from gateway.protocol.target import without
from gateway.quotas import Rate
from gateway.subscriptions.attempts import Outcome
from gateway.subscriptions.dispatcher import Dispatcher
from gateway.subscriptions.http import PREFIX
from gateway.subscriptions.keyring import Keyring
from gateway.subscriptions.records import Delivery
from gateway.subscriptions.signing import Keys
from gateway.subscriptions.store import MOST_SUBSCRIPTIONS, Store
from gateway.subscriptions.watch import Watch

if TYPE_CHECKING:
    from fastapi import APIRouter

    from gateway.subscriptions.webhooks import Webhooks

CHANGES: Final = 20.0  # of a tenant's subscriptions in a second, unless the settings say otherwise


class Subscriptions:
    """A Machine's part in all subscriptions. Another Machine goes on with whatever this one leaves.

    `base_url`: how others reach the gateway, for callbacks and keys. `allow_local_webhooks`: webhooks may go to this
    very host by plain http, for development. `scan_interval`: seconds between looks for neglected work. `most`:
    subscriptions that a tenant may have; `changes`: how many it may change in a second at each Machine; `work`: the
    places of what keeps the database busy for long.
    """

    def __init__(
        self,
        database: Database,
        *,
        base_url: Callable[[], str] | str,
        allow_local_webhooks: bool = True,
        bodies: Bodies | None = None,
        scan_interval: float = 1.0,
        most: int = MOST_SUBSCRIPTIONS,
        changes: float = CHANGES,
        work: LongWork | None = None,
    ) -> None:
        self._base_url = base_url
        self._allow_local = allow_local_webhooks
        self._bodies = bodies or Bodies(1 << 20)
        self._scan_interval = scan_interval
        self._store = Store(database, most=most, work=work)
        self._changes = Rate(changes)
        self._away = database.away
        self._watch = Watch()
        self._keyring = Keyring(database)
        self._dispatcher: Dispatcher | None = None
        self._webhooks: Webhooks | None = None

    async def start(self) -> None:
        """Begins to look after subscriptions; without a database it begins when there is one."""
        self._dispatcher = Dispatcher(
            self._store,
            self._watch,
            self._deliver,
            self._keyring.keys,
            scan_interval=self._scan_interval,
            away=self._away,
        )
        with suppress(Unavailable):  # keys and subscriptions are asked for again when they are needed
            await self._keyring.keys()
            await self._dispatcher.refresh()
        self._dispatcher.start()

    async def stop(self) -> None:
        """Ends. Deliveries that are under way get a moment, and are then left to another Machine."""
        if self._dispatcher is not None:
            await self._dispatcher.stop()
        if self._webhooks is not None:
            await self._webhooks.close()

    def follow(self, commits: Commits) -> None:
        """Takes the changes of streams by this Machine, whose events may wake subscriptions, while there are any."""
        self._watch.begins = lambda: commits.subscribe(self.committed)
        self._watch.ends = lambda: commits.unsubscribe(self.committed)

    def committed(self, news: News) -> None:
        """Takes a change of a stream by this Machine."""
        if news.last >= news.first and not news.deleted:
            self.appended(news.path)

    def ended(self, news: News) -> None:
        """Takes the end of a stream. Links of a deleted stream no longer count, and are removed later."""
        if news.deleted and self._dispatcher is not None:
            self._dispatcher.tidy_soon()

    def created(self, path: str, tail: int) -> None:
        """Takes a stream that this Machine has made, whose first events may wake subscriptions."""
        if tail:
            self.appended(path)

    def appended(self, path: str) -> None:
        """Mostly costs no more than a look into a dictionary."""
        if self._watch.notice(path) and self._dispatcher is not None:
            self._dispatcher.hint()

    @property
    def unwritten(self) -> int:
        """Wakes that could not be written to their wake stream, each try counted."""
        return self._store.unwritten

    @property
    def attempts(self) -> dict[str, int]:
        """Attempts to deliver to webhooks, by outcome."""
        return {} if self._dispatcher is None else dict(self._dispatcher.attempts)

    def router(self) -> APIRouter:
        """The reserved control APIs, at `/v1/stream/__ds`."""
        from gateway.subscriptions.handlers import Handlers
        from gateway.subscriptions.routes import make_router

        handlers = Handlers(
            self._store,
            self._keyring.keys,
            changed=self._changed,
            ring=self._ring,
            address=self._address,
            allow_local_webhooks=self._allow_local,
            bodies=self._bodies,
            changes=self._changes,
        )
        return make_router(handlers)

    def _address(self, path: str) -> str:
        base = self._base_url if isinstance(self._base_url, str) else self._base_url()
        return f"{base.rstrip('/')}{PREFIX}/{path}"

    async def _changed(self) -> None:
        if self._dispatcher is not None:
            with suppress(Unavailable):  # the change is committed: the next round learns of it
                await self._dispatcher.refresh()

    def _ring(self) -> None:
        if self._dispatcher is not None:
            self._dispatcher.ring()

    async def _deliver(self, delivery: Delivery, keys: Keys) -> tuple[Outcome, str]:
        """Makes an attempt, by a client that most Machines never need."""
        if self._webhooks is None:
            from gateway.subscriptions.webhooks import Webhooks

            self._webhooks = Webhooks(self._describe, allow_local=self._allow_local)
        return await self._webhooks.deliver(delivery, keys)

    def _describe(self, delivery: Delivery, keys: Keys) -> dict[str, Any]:
        """A wake as the webhook gets it (§7.1)."""
        token = keys.issue_token(delivery.id, delivery.generation, time.time(), secrets.token_hex(8))
        return {
            "subscription_id": without(delivery.id),
            "wake_id": delivery.wake_id,
            "generation": delivery.generation,
            "streams": [link.work() for link in delivery.links],
            "callback_url": self._address(f"subscriptions/{quote(without(delivery.id), safe='')}/callback"),
            "callback_token": token,
        }
