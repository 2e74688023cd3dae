"""Finds out whether a run is Flue's or the gateway's own, and answers requests for those that are Flue's.

Flue's tables are asked first, by the read itself, so that a run of Flue's costs no extra look-up. A run stays what it
is, so those that were found to be the gateway's own are remembered, and from then on go straight to its own routes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlencode

from gateway.asgi import Receive, Scope, Send
from gateway.auth.gate import check_stream, principal_of
from gateway.auth.principal import Principal
from gateway.flue import dialect
from gateway.flue.errors import NoSuchRun, ReadOnly
from gateway.flue.records import Records
from gateway.flue.source import ID, Source
from gateway.http import responses
from gateway.http.fast_append import Post
from gateway.http.reading import Reading
from gateway.http.routes import Routes
from gateway.protocol.batch import Stream
from gateway.protocol.errors import InvalidRequest, RunNotFound, StreamExists, StreamNotFound
from gateway.protocol.headers import JSON, NO_STORE
from gateway.protocol.read import parse_read
from gateway.protocol.record import to_json
from gateway.protocol.target import Target

REMEMBERED: Final = 10_000  # runs of the gateway's own
LOOK: Final = 1.0  # seconds after which Flue's tables are asked again for a run that is waited for


class FlueRoutes:
    """The routes of all streams, Flue's runs among them. `reading` reads from `source`.

    `native` and `stat` are the gateway's own, for whatever is not Flue's.
    """

    def __init__(
        self,
        native: Routes,
        stat: Callable[[str], Awaitable[Stream]],
        source: Source,
        records: Records,
        reading: Reading,
    ) -> None:
        self._native = native
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

    def __call__(self, target: Target, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answers a request for a stream, or below a run: see Routes."""
        if scope["method"] == "OPTIONS" or not self._may_be_flues(target, principal_of(scope)):
            return self._native(target, scope, receive, send)
        return self._either(target, scope, receive, send)

    def append(self, post: Post) -> bool:
        """Appends to the gateway's own streams. A run's first append comes by ASGI, which finds out whose run it is."""
        return not self._may_be_flues(post.target, post.principal) and self._native.append(post)

    def _may_be_flues(self, target: Target, principal: Principal) -> bool:
        # A Flue app has no tenants: its runs are those of the default tenant.
        return target.is_run and target.fault is None and target.stream not in self._own and not principal.tenant

    async def _either(self, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers for a run of Flue's if there is one, and otherwise as the gateway's own routes do."""
        path = target.stored("")
        left = _patience(scope)
        while True:  # a run that is not there yet may be either's, so both are looked for as long as it is waited for
            try:
                await self._methods.get(scope["method"], self._refuse)(path, scope, receive, send)
                return
            except NoSuchRun as error:
                unknown = error
            part = min(left, LOOK)
            try:
                await self._natively(target, _waiting(scope, part) if left else scope, receive, send)
                break
            except (StreamNotFound, RunNotFound):
                left -= part
                if left <= 0:
                    raise unknown from None
        self._own[path] = None
        if len(self._own) > REMEMBERED:
            self._own.popitem(last=False)

    async def _natively(self, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._native(target, scope, receive, send)
        except InvalidRequest:
            if scope["method"] == "GET":
                await self._stat(target.stored(""))  # as in Flue, a run that does not exist is a 404 before a 400
            raise

    async def _get(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        run = path.removeprefix("runs/")
        try:
            query = dialect.parse_query(scope["query_string"])
            if any(name == "meta" for name, _ in query):
                record = to_json(await self._records.get(run))
                check_stream(principal_of(scope), ID)
                await responses.respond(send, 200, [JSON, NO_STORE], record)
                return
            request = dialect.parse_read(path, scope["headers"], query)
        except InvalidRequest:
            await self._source.find(run)  # a run that does not exist is a 404 before a bad query is a 400
            raise
        await self._reading(request, scope, receive, send)

    async def _head(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        stream = await self._source.stat(path)
        check_stream(principal_of(scope), stream.id)
        await responses.head(send, 200, dialect.of_stream(stream))

    async def _put(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if await self._source.taken(path.removeprefix("runs/")):
            raise StreamExists("Flue has a run of this id.")
        raise NoSuchRun(path.removeprefix("runs/"))

    async def _refuse(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        await self._source.find(path.removeprefix("runs/"))
        raise ReadOnly(scope["method"])


def _patience(scope: Scope) -> float:
    """Seconds that a request waits for a run that is not there yet (`gateway.protocol.read`)."""
    if scope["method"] != "GET":
        return 0.0
    try:
        return parse_read("", scope["headers"], scope["query_string"], with_tail=True).wait
    except InvalidRequest:
        return 0.0


def _waiting(scope: Scope, seconds: float) -> Scope:
    """The same request, which waits for so many seconds."""
    pairs = [(name, value) for name, value in dialect.parse_query(scope["query_string"]) if name != "wait"]
    query = urlencode([*pairs, ("wait", f"{seconds:g}")], encoding="latin-1")
    return {**scope, "query_string": query.encode()}
