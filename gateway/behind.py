"""The application behind the gateway, and what answers before it does: recordings, owners, and readers from rows.

A request that is not the gateway's own comes to the readers of conversations first, then to the relay, then to the
conversation's owner, and so to the application. Each part is there only where a setting asks for it, and is imported
only then.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from gateway.asgi import Scope
from gateway.auth.auth import Auth
from gateway.auth.errors import WrongStream
from gateway.fanout.hub import Hub
from gateway.feed import Feed
from gateway.http.door import Behind
from gateway.http.limits import Limits
from gateway.log.database import Database
from gateway.log.log import Log
from gateway.quotas import Quotas
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.flue.conversations.conversations import Conversations
    from gateway.http.upstream import Upstream
    from gateway.metrics.siblings import Siblings
    from gateway.owner.flue.agents import Agents
    from gateway.owner.owner import Owner
    from gateway.relay.relay import Relay


class Application:
    """The application, and the parts before it. `machine` names this Machine, `reached_at` where others reach it."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        log: Log,
        hub: Hub,
        feed: Feed,
        limits: Limits,
        auth: Auth,
        quotas: Quotas,
        *,
        machine: str,
        reached_at: Callable[[], str],
        siblings: Siblings | None,
    ) -> None:
        self._settings = settings
        self._database = database
        self._auth = auth
        self.reached_at = reached_at
        self.upstream = self._make_upstream()
        self.relay = self._make_relay(log, hub, feed, limits, quotas, machine)
        self.agents = self._make_agents()
        self.owner = self._make_owner(siblings)
        self.conversations = self._make_conversations(limits, lambda: log.listens)
        if self.relay is not None:
            self.relay.owners = self.owner

    @property
    def answers(self) -> Behind | None:
        """Answers a request that is not the gateway's own; None: nothing is behind the gateway."""
        behind = self._at_any_machine()
        if self.conversations is None or behind is None:
            return behind
        admit = partial(self._tenant_of, writes=False) if self._settings.owned_auth else None
        return self.conversations.readers.before(behind, admit)

    @property
    def relayed(self) -> Callable[[Scope], bool] | None:
        """Says of each request whether another gateway has let it in, and counted it: see `Owner.admit`. None: no
        gateway sends this one any.
        """
        return None if self.owner is None else self.owner.admit

    def switched(self) -> None:
        """Takes note that the database is another server now."""
        if self.conversations is not None:
            self.conversations.forget()
        if self.owner is not None:
            self.owner.switched()

    async def hand_over(self) -> None:
        """Gives to other Machines what this one owns, as soon as it is idle."""
        if self.owner is not None:
            self.drain()  # what is recorded has its time from now on
            await self.owner.hand_over(self._settings.owned_drain)

    def drain(self) -> None:
        """Gives recordings their time to end."""
        if self.relay is not None:
            self.relay.drain()

    def cut(self) -> None:
        """Cuts what is still passed on of the application's answers."""
        for behind in (self.upstream, self.owner):
            if behind is not None:
                behind.end()

    def _at_any_machine(self) -> Behind | None:
        """Recordings, which any Machine answers; all else is for the conversation's owner."""
        if self.owner is None:
            return self._at_this_machine()
        return self.owner if self.relay is None else self.relay.before(self.owner)

    def _at_this_machine(self) -> Behind | None:
        upstream = self.upstream
        if self.relay is not None or upstream is None:
            return self.relay
        return lambda scope, receive, send: upstream(scope, receive, send.as_it_is)

    async def _tenant_of(self, scope: Scope, writes: bool) -> str:
        """The tenant of a request of a conversation. Raises what the gate raises."""
        principal = await self._auth.behind(scope, "write" if writes else "read")
        if principal.bound:
            raise WrongStream("It is for some runs only.")
        return principal.tenant

    # The parts, made from the settings

    def _make_upstream(self) -> Upstream | None:
        if self._settings.upstream is None:
            return None
        from gateway.http.upstream import Upstream

        return Upstream(self._settings.upstream)

    def _make_relay(self, log: Log, hub: Hub, feed: Feed, limits: Limits, quotas: Quotas, machine: str) -> Relay | None:
        settings = self._settings
        if settings.relay is None and settings.relay_file is None:
            return None
        from gateway.relay.configuration import rows_of
        from gateway.relay.relay import Relay

        rows = rows_of(settings.relay, settings.relay_file, settings.relay_credential)
        if self.upstream is None or not rows:
            return None
        return Relay(rows, settings, self._database, log, hub, feed, limits, self._auth, quotas, self.upstream, machine)

    def _make_agents(self) -> Agents | None:
        settings = self._settings
        if settings.flue_agents is None:
            return None
        from gateway.owner.flue.agents import Agents, mounts_named

        mounts = mounts_named(settings.flue_agents)
        if settings.upstream is None or not mounts:
            return None
        return Agents(mounts, settings.upstream, self._database, settings.flue_authorization)

    def _make_owner(self, siblings: Siblings | None) -> Owner | None:
        settings, behind = self._settings, self._at_this_machine()
        if settings.owned is None and self.agents is None:
            return None
        from gateway.owner.inheriting import nothing_recorded
        from gateway.owner.lives import Lives
        from gateway.owner.owner import Owner
        from gateway.owner.process import Process
        from gateway.owner.rows import Table, rows_of
        from gateway.owner.shared import Alone, Workers
        from gateway.owner.store import Store

        agents = () if self.agents is None else self.agents.rows
        rows = (*agents, *rows_of(settings.owned, settings.owned_busy))
        if behind is None or settings.upstream is None or not rows:
            return None
        store = Store(self._database, settings.owned_lease)
        lives = Lives(
            store,
            Process(settings.upstream),
            settings.owned_lease,
            Alone() if siblings is None else Workers(siblings.folder),
            self.reached_at,
            settings.fly_machine_id,
        )
        if self.agents is not None:
            behind = self.agents.before(behind)
        recorded = nothing_recorded if self.relay is None else self.relay.unfinished
        admit = self._tenant_of if settings.owned_auth else None
        return Owner(Table(rows), lives, self._database, store, behind, settings.upstream, recorded, admit)

    def _make_conversations(self, limits: Limits, listens: Callable[[], bool]) -> Conversations | None:
        settings = self._settings
        if not settings.flue_agents or not settings.flue_readers:
            return None
        from gateway.flue.conversations.conversations import Conversations
        from gateway.owner.flue.agents import mounts_named

        return Conversations(settings, mounts_named(settings.flue_agents), self._database, limits, listens)
