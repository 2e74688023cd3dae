"""Clients that come back to a recording, or stop one: which recording they mean, and whether it is theirs."""

from __future__ import annotations

import asyncio
from typing import Final

import orjson

from gateway.asgi import Receive, Scope, Send, gone
from gateway.feed import Feed
from gateway.http import responses
from gateway.protocol.errors import RunEnded, RunNotFound, StreamGone
from gateway.protocol.headers import JSON, NO_STORE
from gateway.protocol.target import within
from gateway.relay import answers
from gateway.relay.cursors import Skip
from gateway.relay.errors import NoRecording
from gateway.relay.ids import key_digest, parse_frame_id
from gateway.relay.keys import Asked
from gateway.relay.readers import Need, Readers
from gateway.relay.replay import Replays, Way
from gateway.relay.rows import Row
from gateway.relay.store import Recording, Store
from gateway.relay.table import Fit, Table
from gateway.runs import store as runs

WAIT: Final = 0.1  # seconds between looks whether the upstream has answered another request for the key


class Stopping:
    """Asks for the end of a recording, as anybody can for that of a run."""

    def __init__(self, store: runs.Store, feed: Feed) -> None:
        self._store = store
        self._feed = feed

    async def __call__(self, path: str, reason: str | None = None) -> None:
        """Returns when it is asked for, or has ended already. Raises Unavailable."""
        try:
            news = await self._store.cancel(path, reason)
        except (RunEnded, RunNotFound, StreamGone):
            return
        if news is not None:
            self._feed.committed(news)


class Returns:
    """The ways back to a recording. Each method returns whether it has answered: if not, nothing was sent.

    `anywhere`: only by rows of which the upstream need not be asked who may.
    """

    def __init__(self, table: Table, readers: Readers, store: Store, stopping: Stopping, replays: Replays) -> None:
        self._table = table
        self._readers = readers
        self._store = store
        self._stopping = stopping
        self._replays = replays
        self._looking: dict[str, asyncio.Task[Recording | None]] = {}

    async def by_id(
        self, asked: Asked, raw_path: str, scope: Scope, receive: Receive, send: Send, *, anywhere: bool = False
    ) -> bool:
        """A client that says by an id of ours what it has."""
        text = next((value for name, value in asked.headers if name == b"last-event-id"), None)
        place = None if text is None else parse_frame_id(text)
        if place is None:
            return False
        for row in self._table.rows:
            if not row.ids or (anywhere and row.authorize is not None):
                continue
            placed = _placed(row, asked, scope["method"], raw_path)
            if not self._readers.owns(row, placed, place.run):
                continue
            tenant = await self._readers.admit(row, "read", scope, place.run)
            recording = await self._store.look(within(tenant, f"runs/{place.run}"))
            if recording is None or recording.relay != row.name:
                continue
            if await self._readers.allowed(row, placed, place.run, None, scope):
                # An EventSource that has everything comes back for ever, unless it is told that there is no more.
                over = 204 if row.by_get and scope["method"] == "GET" else None
                await self.replay(row, recording, asked, scope, receive, send, position=place.position, over=over)
                return True
        if not anywhere and self._starts_again(scope["method"], raw_path, asked):
            await responses.respond(send, 204, [])  # the run is no more: this is not to start another one
            return True
        return False

    def _starts_again(self, method: str, raw_path: str, asked: Asked) -> bool:
        return method == "GET" and bool(self._table.starts(method, raw_path, asked.query))

    async def by_key(
        self, asked: Asked, raw_path: str, scope: Scope, receive: Receive, send: Send, *, anywhere: bool = False
    ) -> bool:
        """A client that names a run, or its key, in the URL."""
        idle: int | None = None
        for fit in self._table.resumes(scope["method"], raw_path, asked.query, asked.headers):
            if fit.path.keys().isdisjoint(("run", "key")) or (anywhere and fit.row.authorize is not None):
                continue
            found = await self._find(fit, "read", asked, scope, fit.row.grace)
            while found is not None:
                if await self.replay(fit.row, found, asked, scope, receive, send):
                    return True
                found = await self._find(fit, "read", asked, scope, fit.row.grace)  # nothing has come of that one
            if idle is None and isinstance(fit.row.idle, int):
                idle = fit.row.idle
        if idle is None:
            return False
        if idle == 404:
            raise NoRecording
        await responses.respond(send, idle, [])
        return True

    async def stop(self, asked: Asked, raw_path: str, scope: Scope, send: Send, *, anywhere: bool = False) -> bool:
        """Asks for the end of a run by its control stream, which the Machine that records it hears."""
        for fit in self._table.stops(scope["method"], raw_path, asked.query):
            if anywhere and fit.row.authorize is not None:
                continue
            found = await self._find(fit, "control", asked, scope, None)
            if found is None:
                continue
            await self._stopping(found.path)
            name = fit.path.get("key", found.run)
            await responses.respond(send, 200, [JSON, NO_STORE], orjson.dumps({"id": name, "status": "cancelled"}))
            return True
        return False

    async def replay(
        self,
        row: Row,
        recording: Recording,
        asked: Asked,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        position: int = 0,
        over: int | None = None,
    ) -> bool:
        """Answers with a recording, as soon as its upstream has answered. False: nothing has come of it.

        `over`: the status where it has ended and the client has all of it.
        """
        self._replays.admit(scope)
        found = await self._answered(recording, scope, receive)
        if found is None or found.stream != recording.stream:
            return False
        skip = None if row.cursor is None else row.cursor.skip(row.frames, asked.query)
        if skip is not None and isinstance(row.idle, int):
            over = row.idle
        way = way_to(row, found.path, position=position, skip=skip)
        head = answers.unanswered(row, {"run": found.run}) if found.head is None else found.head
        await self._replays(way, 200, head, over, scope, receive, send)
        return True

    async def _answered(self, recording: Recording, scope: Scope, receive: Receive) -> Recording | None:
        """The recording, once its upstream has answered; None: it has gone. Raises NoRecording for a client that has.

        A request that waits counts as a reader, and all that wait for one recording look together.
        """
        if recording.head is not None or recording.closed:
            return recording
        path = recording.path
        looking = self._looking.get(path)
        if looking is None:
            looking = self._looking[path] = asyncio.create_task(self._look(path), name="relay: a first answer")
            looking.add_done_callback(lambda _: self._looking.pop(path))
        leaving = asyncio.ensure_future(gone(receive))
        try:
            with self._replays.place(scope):
                await asyncio.wait((looking, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
        if not looking.done():
            raise NoRecording
        return looking.result()

    async def _look(self, path: str) -> Recording | None:
        while True:
            await asyncio.sleep(WAIT)
            found = await self._store.look(path)
            if found is None or found.head is not None or found.closed:
                return found

    def close(self) -> None:
        """Ends the looks that are under way."""
        for looking in list(self._looking.values()):
            looking.cancel()

    async def _find(self, fit: Fit, need: Need, asked: Asked, scope: Scope, grace: float | None) -> Recording | None:
        """The recording that a URL names, if this client may come back to it."""
        row, path = fit
        asked = Asked(asked.headers, asked.query, path)
        run, key = path.get("run"), path.get("key")
        tenant = await self._readers.admit(row, need, scope, run)
        if run is not None:
            if not self._readers.owns(row, asked, run):
                return None
            found = await self._store.look(within(tenant, f"runs/{run}"), grace)
        else:
            digest = key_digest(tenant, row.name, path["key"], self._readers.credential(row, asked))
            found = await self._store.find(tenant, digest, grace)
        if found is None or found.relay != row.name:
            return None
        return found if await self._readers.allowed(row, asked, found.run, key, scope) else None


def way_to(row: Row, path: str, *, position: int = 0, skip: Skip | None = None) -> Way:
    """The way of a client of this row into the recording at a path."""
    return Way(
        path=path,
        run=path.rpartition("/")[2],
        kind=row.frames,
        ids=row.ids,
        comments=row.comments and row.frames == "sse",
        position=position,
        skip=skip,
        moved=row.ids or row.cursor is not None,
        missed=row.leave != "continue",
    )


def _placed(row: Row, asked: Asked, method: str, raw_path: str) -> Asked:
    """A request with what any of the row's patterns finds in its URL."""
    for pattern in (*row.resume, *row.start):
        found = pattern.match(method, raw_path, asked.query)
        if found is not None:
            return Asked(asked.headers, asked.query, found)
    return asked
