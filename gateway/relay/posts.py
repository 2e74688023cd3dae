"""Requests that a row may record: the first row that takes one decides what becomes of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from gateway.asgi import Message, Receive, Scope, Send, gone
from gateway.http import responses
from gateway.http.bodies import Bodies, plain
from gateway.http.owned import HELD
from gateway.http.upstream import BadGateway, Upstream, begin, forwarded, passed_on, returned
from gateway.relay.asking import Answer
from gateway.relay.beginning import Beginnings, Begun, Job
from gateway.relay.bodies import altered_in_pieces, value_in_pieces
from gateway.relay.keys import Asked, header
from gateway.relay.readers import Readers
from gateway.relay.replay import Replays, sever
from gateway.relay.returns import Returns, way_to
from gateway.relay.rows import Row
from gateway.relay.store import Store
from gateway.relay.table import Fit
from gateway.tasks import in_turns

logger = logging.getLogger("gateway.relay")


class Posts:
    """Records, attaches or passes on. `most`: bytes of a body that is looked at."""

    def __init__(
        self,
        readers: Readers,
        store: Store,
        beginnings: Beginnings,
        replays: Replays,
        returns: Returns,
        upstream: Upstream,
        bodies: Bodies,
        most: int,
    ) -> None:
        self._readers = readers
        self._store = store
        self._beginnings = beginnings
        self._replays = replays
        self._returns = returns
        self._upstream = upstream
        self._bodies = bodies
        self._most = most
        self._told = set[str]()  # rows of which the log has said that they do not record all

    async def __call__(self, fits: Sequence[Fit], asked: Asked, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a POST to which these rows' patterns fit. Raises ProtocolError while nothing has been sent."""
        coding = (header(asked.headers, "content-encoding") or "").encode()
        length = header(asked.headers, "content-length") or "0"
        if not plain(coding) or int(length) > self._most:
            why = "its body is compressed, or larger than GATEWAY_MAX_BODY"
            await self._pass_on(fits[0].row, why, scope, receive, send)
            return
        body = await self._bodies.read(scope, receive, self._most)
        value = await in_turns(value_in_pieces(body), len(body))
        for row, path in fits:
            request = Asked(asked.headers, asked.query, path, value)
            if row.takes(request):
                await self._take(row, request, body, scope, receive, send)
                return
        receive = _again(body, receive)
        wanting = next((row for row, path in fits if row.wants(Asked(asked.headers, asked.query, path, value))), None)
        if wanting is None:
            await self._upstream(scope, receive, send)
        else:
            await self._pass_on(wanting, f"it has no key at {wanting.key}", scope, receive, send)

    async def _pass_on(self, row: Row, why: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what this row would record, if it were not for this. The log says so once for each row."""
        self._beginnings.counts.unrecorded += 1
        if row.name not in self._told:
            self._told.add(row.name)
            logger.warning(
                "A request for the relay's row %s is passed on without being recorded: %s. Its client cannot come back"
                " to the answer. Further ones are only counted, in run_gateway_unrecorded_posts_total.",
                row.name,
                why,
            )
        await self._upstream(scope, receive, send)

    async def _take(self, row: Row, asked: Asked, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        tenant = await self._readers.admit(row, "write", scope)
        self._replays.admit(scope)
        if row.alters:
            body = await in_turns(altered_in_pieces(body, row.drop, row.set), len(body))
        target: bytes = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        credential = self._readers.credential(row, asked)
        request = scope["method"], target, forwarded(scope), body
        job = self._beginnings.job(row, asked, tenant, credential, self._readers.secret, request, scope.get(HELD))
        self._beginnings.admit(job)
        try:
            await self._begin(job, row, asked, scope, receive, send)
        finally:
            self._beginnings.leave(job)

    async def _begin(self, job: Job, row: Row, asked: Asked, scope: Scope, receive: Receive, send: Send) -> None:
        """Records the answer, or attaches to that of a POST with the same key."""
        while job.key is not None:
            claim = await self._beginnings.claim(job)
            if claim.own:
                await self._record(job, claim.stream, scope, receive, send)
                return
            recording = await self._store.look(claim.path)
            if recording is None:
                continue  # it has gone since then
            await self._readers.admit(row, "read", scope, recording.run)
            if not await self._readers.allowed(row, asked, recording.run, job.key, scope):
                job = replace(job, key=None)  # it is not theirs, and stays whose it is: this one has none
                break
            self._beginnings.leave(job)
            if await self._returns.replay(row, recording, asked, scope, receive, send):
                return
            self._beginnings.admit(job)
        await self._record(job, None, scope, receive, send)

    async def _record(self, job: Job, stream: int | None, scope: Scope, receive: Receive, send: Send) -> None:
        with self._replays.expecting(job.path) as made:
            outcome = await self._beginnings.begin(job, stream, passed_on(scope))
            if isinstance(outcome, Begun):
                if outcome.stream is not None:
                    made(outcome.stream)
                head = returned(outcome.status, outcome.head)
                await self._replays(way_to(job.row, job.path), outcome.status, head, None, scope, receive, send)
                return
        await _pass_back(outcome, scope, receive, send)


async def _pass_back(answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
    """An answer that is none to be recorded, as it is."""
    leaving = asyncio.ensure_future(gone(receive))
    leaving.add_done_callback(lambda _: answer.give_up())
    try:
        await begin(scope, send, answer.status, returned(answer.status, answer.headers), answer.reason)
        async for piece in answer.pieces():
            await responses.piece(send, piece)
    except BadGateway:
        await sever(scope, receive)
    else:
        await responses.finish(send)
    finally:
        leaving.cancel()


def _again(body: bytes, receive: Receive) -> Receive:
    """A request's `receive` after its body has been read: it comes once more."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
