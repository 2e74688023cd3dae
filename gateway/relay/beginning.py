"""Begins recordings: a POST's key is claimed, the upstream is asked, and its answer is recorded or passed on.

Once the upstream is asked, nothing of this depends on whether the client who has asked is still there.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from typing import Any, Final, TypeVar

from gateway.asgi import Headers
from gateway.feed import Feed
from gateway.http.informational import Told
from gateway.http.owned import Held, Owners
from gateway.http.upstream import BadGateway
from gateway.protocol.batch import Stream
from gateway.protocol.errors import Unavailable
from gateway.protocol.json_body import value_of
from gateway.protocol.target import control_of, shown, within
from gateway.relay import answers
from gateway.relay.asking import Answer, Asking
from gateway.relay.contact import Contact
from gateway.relay.errors import TooManyRecordings
from gateway.relay.framing import Framer, data_of, has_data
from gateway.relay.ids import key_digest, new_run
from gateway.relay.keys import Asked, Source, as_key, field, in_answer
from gateway.relay.recorder import AGAIN, Counts, Log, Recorder
from gateway.relay.rejoining import Rejoining
from gateway.relay.rounds import Rounds
from gateway.relay.rows import Row
from gateway.relay.store import Claim, New, Store, Taken
from gateway.runs.ids import CHANCE_BYTES

logger = logging.getLogger("gateway.relay")

_T = TypeVar("_T")

_FREE: Final = lambda: None  # noqa: E731  nobody has to be told
FIRST: Final = 1 << 20  # bytes of an answer in which a key of its first frame is looked for


@dataclass(frozen=True, slots=True)
class Job:
    """A request that is to be recorded. `path`: of its run, as it is stored. `key`: the one that is in the request.

    `held`: the conversation that it writes to, where those have owners.
    """

    row: Row
    asked: Asked
    method: str
    target: bytes
    headers: Headers
    body: bytes
    tenant: str
    credential: bytes
    path: str
    key: str | None
    held: Held | None

    @property
    def run(self) -> str:
        """The run's id."""
        return self.path.rpartition("/")[2]

    def digest(self, key: str) -> bytes:
        """A key as the database knows it."""
        return key_digest(self.tenant, self.row.name, key, self.credential)


@dataclass(frozen=True, slots=True)
class Begun:
    """An answer is being recorded. `head`: the headers of the answer for the client who has asked. `stream`: the
    recording's, if the upstream has answered.
    """

    status: int
    head: Headers
    stream: Stream | None = None


@dataclass(frozen=True, slots=True)
class Sizes:
    """The limits of recordings: bytes of a frame, seconds of a lease, how many there may be at once, and how many
    seconds one may last.
    """

    frame: int
    lease: int
    most: int
    duration: float


class Beginnings:
    """Makes recordings. `recorders`: those that are under way here, by their paths."""

    def __init__(
        self,
        asking: Asking,
        log: Log,
        store: Store,
        feed: Feed,
        sizes: Sizes,
        rejoining: Rejoining,
        changed: Callable[[], None],
    ) -> None:
        self.counts = Counts()
        self.recorders: dict[str, Recorder] = {}
        self.by_control: dict[str, Recorder] = {}
        self._asking = asking
        self._log = log
        self._rounds = Rounds(log.submit_together)
        self._store = store
        self._feed = feed
        self._sizes = sizes
        self._rejoining = rejoining
        self._changed = changed
        self._asked: dict[str, asyncio.Task[Begun | Answer]] = {}  # of which the upstream is asked, by their paths
        self._noting: set[asyncio.Task[None]] = set()
        # Of POSTs that are taken, until they are recorded to their end: what lets go of their conversations, by paths.
        self._places: dict[str, Callable[[], None]] = {}

    def job(
        self,
        row: Row,
        asked: Asked,
        tenant: str,
        credential: bytes,
        secret: bytes,
        request: tuple[str, bytes, Headers, bytes],
        held: Held | None = None,
    ) -> Job:
        """A request that this row takes: its method, and target, headers and body as the upstream is to have them."""
        method, target, headers, body = request
        run = new_run(time.time(), secrets.token_bytes(CHANCE_BYTES), credential, secret)
        key = None if row.key is None or not row.key.in_request else asked.find(row.key)
        headers = answers.asked(headers, len(body) if body or method != "GET" else None)
        path = within(tenant, f"runs/{run}")
        return Job(row, asked, method, target, headers, body, tenant, credential, path, key, held)

    def admit(self, job: Job) -> None:
        """Gives a POST a place, before anything is done for it: what is recorded stays when its client leaves, so the
        limits of connections do not hold it. Raises TooManyRecordings.
        """
        if len(self._places) >= self._sizes.most:
            raise TooManyRecordings(f"At most {self._sizes.most} at once.")
        self._places[job.path] = _FREE if job.held is None else job.held.keep(partial(self._lost, job.path))

    def leave(self, job: Job) -> None:
        """Takes the place back, unless the upstream is asked, or recorded, for this POST: see `_done`."""
        if job.path not in self._asked and job.path not in self.recorders:
            self._let_go(job.path)

    @property
    def room(self) -> int:
        """The number of recordings for which there is still room here."""
        return self._sizes.most - len(self._places)

    def close(self) -> None:
        """Ends: no recording begins from now on."""
        self._rounds.reading.close()

    async def take(self, taken: Taken, row: Row, owners: Owners | None) -> None:
        """Goes on with the recording of a Machine that is no more. `owners`: of conversations, where those have any."""
        held = let_go = None
        if taken.conversation is not None and owners is not None:
            held, let_go = await owners.hold(taken.conversation, partial(self._lost, taken.path)) or (None, None)
        contact = Contact.read(taken.rejoin)
        recorder = self._recorder(taken.path, taken.stream, row, taken.generation, held)
        recorder.cancels = taken.cancels
        recorder.began -= taken.age
        self._places[taken.path] = let_go or _FREE
        self._rejoining.prepare(recorder, contact)
        if taken.cancel_requested:
            recorder.stop()
        else:
            recorder.interrupted("the Machine that recorded it is gone")

    async def claim(self, job: Job) -> Claim:
        """Claims the job's key, which may be another's already. Raises Unavailable."""
        assert job.key is not None, "only a key that is in the request can be claimed"
        claim = await self._store.claim(job.digest(job.key), self._new(job), attach=job.row.attach, grace=job.row.grace)
        if claim.own:
            self._recorder(job.path, claim.stream, job.row, held=job.held).cancels = job.row.cancels(job.asked.body)
        return claim

    async def begin(self, job: Job, stream: int | None, told: Told | None) -> Begun | Answer:
        """Asks the upstream. What it answers is recorded from now on, or is given back where it is not for that.

        `stream`: of the claim. `told`: is told what the upstream says before its answer. Raises BadGateway,
        Unavailable. Goes on to its end, even if the caller is cancelled.
        """
        task = asyncio.create_task(self._begin(job, stream, told), name="relay: a POST")
        self._asked[job.path] = task

        def answered(_: object) -> None:
            del self._asked[job.path]
            self.leave(job)

        task.add_done_callback(answered)
        if stream is not None:
            self.recorders[job.path].asking = task
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # it was stopped before the upstream has answered
                return Begun(200, answers.unanswered(job.row, {"run": job.run, "key": job.key or ""}))
            task.add_done_callback(_unwanted)
            raise

    async def _begin(self, job: Job, stream: int | None, told: Told | None) -> Begun | Answer:
        try:
            answer = await self._in_time(stream, self._asking(job.method, job.target, job.headers, job.body, told))
        except BaseException as error:
            if isinstance(error, BadGateway):
                logger.warning("The upstream has not answered (%s).", error.details or type(error.__cause__).__name__)
            if stream is not None and not isinstance(error, asyncio.CancelledError):
                await self._release(job, stream)
            raise
        if not answers.recordable(job.row, answer.status, answer.headers):
            if stream is not None:
                await self._release(job, stream)
            return answer
        try:
            return await self._record(job, stream, answer)
        except BaseException:
            answer.close()
            recorder = self.recorders.get(job.path)
            if recorder is not None:  # or it would show that it is alive, with nothing to record
                recorder.asking = None
                recorder.lose("its recording could not begin")
            raise

    async def _in_time(self, stream: int | None, answer: Coroutine[Any, Any, _T]) -> _T:
        """Waits for something of the upstream's answer. Of a claim there is a recorder, which ends in time. Where there
        is no claim (`stream` None), this does. Raises BadGateway.
        """
        try:
            async with asyncio.timeout(self._sizes.duration if stream is None else None):
                return await answer
        except TimeoutError as error:
            raise BadGateway(f"It has not answered in {self._sizes.duration:g} s.") from error

    async def _record(self, job: Job, stream: int | None, answer: Answer) -> Begun:
        first: list[bytes] = []
        key = job.key
        frame: object = None
        if job.row.needs_frame:
            frame, first = await self._in_time(stream, _first_frame(job.row, answer))
        if job.row.key is not None and not job.row.key.in_request:
            key = _found(job.row.key, job.asked, answer.headers, frame)
        if key is None and job.row.keyless:
            key = job.run
        values = {"run": job.run, **({} if key is None else {"key": key})}
        head = answers.replayed(job.row, answer.headers, values)
        if stream is not None:
            recorder = self.recorders[job.path]
            recorder.noting = True
            noting = asyncio.create_task(self._note(recorder, head), name="relay: an answer's head")
            self._noting.add(noting)
            noting.add_done_callback(self._noting.discard)
            if job.row.rejoin is not None:
                await noting  # a Machine that goes on with it does not know the head
        else:
            stream = await self._store.begin(self._new(job), head)
            recorder = self._recorder(job.path, stream, job.row, held=job.held)
            recorder.cancels = job.row.cancels(job.asked.body)
            if key is not None:
                await self._kept(partial(self._store.name, job.digest(key), stream))
        if job.row.rejoin is not None or job.row.cancel is not None:
            await self._prepare(job, recorder, answer.headers, frame, values)
        for data in first:
            recorder.data(data)
        recorder.record(answer)
        made = Stream(stream, job.path, job.row.media_type, 0, False)
        return Begun(answer.status, answers.first(job.row, answer.headers, values), made)

    async def _prepare(
        self, job: Job, recorder: Recorder, head: Headers, frame: object, values: Mapping[str, str]
    ) -> None:
        """Notes how the upstream is spoken to about this answer."""
        named = {name: _found(source, job.asked, head, frame) for name, source in job.row.values.items()}
        known = {name: value for name, value in named.items() if value is not None}
        contact = Contact.of(job.row, job.headers, {**job.asked.path, **known, **values})
        self._rejoining.prepare(recorder, contact)
        if contact.rest is None or job.row.rejoin is None:
            return
        conversation = None if job.held is None else job.held.key
        kept = contact.kept(job.row.rejoin)
        await self._kept(partial(self._store.keep, recorder.stream, kept, recorder.cancels, conversation))

    async def _kept(self, keep: Callable[[], Awaitable[None]]) -> None:
        """Has the database keep something of an answer, also where it is away for a while: the upstream has answered,
        and is asked no second time.
        """
        for pause in chain(AGAIN, repeat(AGAIN[-1])):
            try:
                await keep()
            except Unavailable:
                await asyncio.sleep(pause)
            else:
                return

    async def _note(self, recorder: Recorder, head: Headers) -> None:
        """Tells those who come back that there is an answer. The first frames do not wait for it, nor do those of an
        answer that comes while the database is away.
        """
        try:
            for pause in chain(AGAIN, repeat(AGAIN[-1])):
                try:
                    await self._store.answered(recorder.stream, head)
                except Unavailable:
                    await asyncio.sleep(pause)
                else:
                    break
                if recorder.over:
                    break
        finally:
            recorder.noted()

    def _recorder(self, path: str, stream: int, row: Row, generation: int = 0, held: Held | None = None) -> Recorder:
        recorder = Recorder(
            path,
            stream,
            row,
            self._log,
            self._rounds,
            self._store,
            self._feed,
            self.counts,
            most=self._sizes.frame,
            lease=self._sizes.lease,
            done=self._done,
            generation=generation,
        )
        recorder.held = held
        self.recorders[path] = recorder
        self.by_control[control_of(path)] = recorder
        return recorder

    def _done(self, recorder: Recorder) -> None:
        self.recorders.pop(recorder.path, None)
        self.by_control.pop(control_of(recorder.path), None)
        if recorder.path not in self._asked:
            self._let_go(recorder.path)
        if recorder.again is not None:
            self._rejoining.forget(recorder)
        self._changed()

    def _let_go(self, path: str) -> None:
        self._places.pop(path, _FREE)()

    def _lost(self, path: str) -> None:
        """Another Machine owns the conversation from now on, or nobody does: the rest is its next owner's."""
        recorder = self.recorders.get(path)
        if recorder is not None:
            recorder.hand_over("this Machine no longer owns its conversation")

    async def _release(self, job: Job, stream: int) -> None:
        """Gives back a claim of which nothing is recorded; where that fails, its lease ends it."""
        assert job.key is not None, "or it would not have been claimed"
        recorder = self.recorders.get(job.path)
        if recorder is not None:
            recorder.asking = None
            recorder.let_go()
        try:
            news = await self._store.release(job.digest(job.key), stream)
        except Exception:
            logger.exception("The claim of run %s could not be released; its lease ends it.", shown(job.path))
            return
        if news is not None:
            self._feed.committed(news)

    def _new(self, job: Job) -> New:
        row = job.row
        return New(
            path=job.path,
            relay=row.name,
            content_type=row.media_type,
            lease=self._sizes.lease,
            input=job.body.decode() if row.input and job.asked.body is not None else None,
            lost=row.lost_frame or None,
        )


def _unwanted(task: asyncio.Task[Begun | Answer]) -> None:
    """Closes an answer that is not recorded, and whose client has gone."""
    if not task.cancelled() and task.exception() is None and isinstance(outcome := task.result(), Answer):
        outcome.close()


async def _first_frame(row: Row, answer: Answer) -> tuple[object, list[bytes]]:
    """The JSON of the first frame with data, and the bytes that had to be read for it."""
    first = _First(row, answer)
    answer.listen(first)
    return _value(data_of(row.frames, await first.frame)), first.read


class _First:
    """Listens to an answer up to its first frame with data."""

    def __init__(self, row: Row, answer: Answer) -> None:
        self.frame: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.read: list[bytes] = []
        self._row = row
        self._answer = answer
        self._framer = Framer(row.frames)

    def data(self, data: bytes) -> None:
        self.read.append(data)
        for frame in self._framer.feed(data):
            if has_data(self._row.frames, frame):
                self._found(frame)
                return
        if self._framer.size > FIRST:
            self._found(b"")

    def ended(self, fault: str | None) -> None:
        self._found(b"")

    def _found(self, frame: bytes) -> None:
        self._answer.hold()
        if not self.frame.done():
            self.frame.set_result(frame)


def _found(source: Source, asked: Asked, head: Headers, frame: object) -> str | None:
    """The value of a source, in a POST or its answer. `frame`: the JSON of the answer's first frame."""
    if source.place == "response":
        return in_answer(source, head)
    return as_key(field(frame, source.name)) if source.place == "frame" else asked.find(source)


def _value(data: bytes) -> object:
    try:
        return value_of(data)
    except ValueError:
        return None
