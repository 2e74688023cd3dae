"""Which log a run's path belongs to, and the answers for those that are Flue's.

Flue's table is asked first, by the read itself: a run of Flue's costs no look-up. A run never changes its kind, so
those that were found to be the gateway's own are remembered, and go straight to its own routes from then on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from gateway.asgi import Receive, Scope, Send
from gateway.auth.gate import principal_of
from gateway.flue import dialect
from gateway.flue.errors import NoSuchRun, ReadOnly
from gateway.flue.records import Records
from gateway.flue.source import Source, run_of
from gateway.http import responses
from gateway.http.post import Post
from gateway.http.reading import Reading
from gateway.http.routes import AppendDirectly, Routes
from gateway.protocol.batch import Stream
from gateway.protocol.errors import InvalidRequest, RunNotFound, StreamExists, StreamNotFound
from gateway.protocol.headers import NO_STORE
from gateway.protocol.record import to_json

REMEMBERED: Final = 10_000  # runs of the gateway's own


class FlueRoutes:
    """The same routes, with Flue's runs among them. `reading` reads from `source`.

    `native`, `append_directly` and `stat` are the gateway's own, for whatever is not Flue's.
    """

    def __init__(
        self,
        native: Routes,
        append_directly: AppendDirectly,
        stat: Callable[[str], Awaitable[Stream]],
        source: Source,
        records: Records,
        reading: Reading,
    ) -> None:
        self._native = native
        self._append_directly = append_directly
        self._stat = stat
        self._source = source
        self._records = records
        self._reading = reading
        self._own: OrderedDict[str, None] = OrderedDict()
        self._methods: dict[str, Callable[[str, Scope, Receive, Send], Awaitable[None]]] = {
            "GET": self._get,
            "HEAD": self._head,
            "PUT": self._put,
        }

    def __call__(self, path: str, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """As any Routes."""
        # An app has no tenants: its runs are the default one's.
        if run_of(path) is None or path in self._own or scope["method"] == "OPTIONS" or principal_of(scope).tenant:
            return self._native(path, scope, receive, send)
        return self._either(path, scope, receive, send)

    def append_directly(self, post: Post) -> bool:
        """The same as the native one; the first append to a run takes the long way."""
        if run_of(post.stored) is not None and post.stored not in self._own:
            return False
        return self._append_directly(post)

    async def _either(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._methods.get(scope["method"], self._refuse)(path, scope, receive, send)
            return
        except NoSuchRun as error:
            unknown = error
        try:
            try:
                await self._native(path, scope, receive, send)
            except InvalidRequest:
                if scope["method"] == "GET":
                    await self._stat(path)  # that there is no such run is said first, here as well
                raise
        except (StreamNotFound, RunNotFound):
            raise unknown from None
        self._own[path] = None
        if len(self._own) > REMEMBERED:
            self._own.popitem(last=False)

    async def _get(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        run = path[5:]
        try:
            query = dialect.parse_query(scope["query_string"])
            if any(name == "meta" for name, _ in query):
                record = to_json(await self._records.get(run))
                await responses.respond(send, 200, [(b"content-type", b"application/json"), NO_STORE], record)
                return
            request = dialect.parse_read(path, scope["headers"], query)
        except InvalidRequest:
            await self._source.find(run)  # that there is no such run is said first
            raise
        await self._reading(request, scope, receive, send)

    async def _head(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        await responses.head(send, 200, dialect.of_stream(await self._source.stat(path)))

    async def _put(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if await self._source.taken(path[5:]):
            raise StreamExists("Flue has a run of this id.")
        raise NoSuchRun(path[5:])

    async def _refuse(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        await self._source.find(path[5:])
        raise ReadOnly(scope["method"])
