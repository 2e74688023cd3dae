"""`Run`: what an agent does, recorded as it does it. `async with`, and `with` where there is no loop."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Generator, Mapping
from contextlib import AsyncExitStack, ExitStack
from types import TracebackType
from typing import Any, Self

from run_gateway.address import checked, gateway_of, place_of, stream_url
from run_gateway.errors import ClientError
from run_gateway.events import Default, mapping, text_of
from run_gateway.portal import Portal, portal
from run_gateway.recording import AHEAD, LEASE, Plan, Recording
from run_gateway.session import Session
from run_gateway.sharing import PATIENCE, sharing


class Emitted:
    """The result of `emit`. The event is on its way; awaiting this waits only when too much waits already."""

    __slots__ = ("_recording",)

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    def __await__(self) -> Generator[Any, None, None]:
        if self._recording.bytes > AHEAD:
            yield from self._recording.at_most(AHEAD).__await__()


class _Recorded:
    """The part that both forms of a run share: where it is, and its result."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._result: bytes | None = None

    @property
    def id(self) -> str:
        return self._plan.id

    @property
    def url(self) -> str:
        """The address that readers follow."""
        return self._plan.url

    @property
    def result(self) -> Any:
        """The run's result: set it, and the record has it when the block has ended. Raises TypeError, ValueError."""
        raise AttributeError("a run's result can be set here, and is in its record: get_run(run.url)")

    @result.setter
    def result(self, value: object) -> None:
        self._result = text_of(value)


class Run(_Recorded):
    """`async with Run("http://127.0.0.1:8080/runs/17", workflow="chat") as run: await run.emit({"type": "token"})`.

    The address is the run's, or only the gateway's, and then the run gets an id of its own. `workflow`, `input`,
    `metadata` and `ttl` are in its record. `lease`: seconds after whose silence a Machine ends it. `token`: a key or a
    JWT; by default what the variable RUN_GATEWAY_TOKEN holds. `producer` names the writer: one that begins the run
    again under that name takes it over. `patience`: seconds for which a gateway that has answered before is waited for.
    Raises TypeError and ValueError for arguments that cannot be meant.

    The block's end closes the run: completed, errored with the exception that left the block, or cancelled. What is no
    `Exception`, such as a Ctrl-C or a deploy, leaves the run open: a process that begins it again takes it over, and
    if none does, the lease ends it.

    A cancel of the run, or its loss to another producer, cancels what the block awaits, and is raised at the block's
    end (as asyncio.timeout does it). Raises ClientError: at the door if the gateway does not answer, or the run has
    ended.
    """

    def __init__(
        self,
        url: str,
        *,
        workflow: str | None = None,
        input: object = None,
        metadata: Mapping[str, str | int | float | bool] | None = None,
        lease: int = LEASE,
        ttl: int | None = None,
        token: str | None = None,
        producer: str = "agent",
        patience: float = PATIENCE,
        session: Session | None = None,
    ) -> None:
        super().__init__(_plan(url, workflow, input, metadata, lease, ttl, producer))
        self._token = token
        self._patience = patience
        self._session = session
        self._begun: Recording | None = None

    # In a coroutine

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._body, self._cancels = task, task.cancelling()
        async with AsyncExitStack() as stack:
            self._begun = await self._begin(stack, lambda _: self._body.cancel())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        recording = self._recording
        recording.leave()
        why = recording.why
        if why is not None and self._body.uncancel() <= self._cancels and kind is asyncio.CancelledError:
            error = why
        async with self._stack:
            await recording.end(error, self._result)
        if why is not None and error is why:
            raise why

    def emit(self, event: object, default: Default | None = None) -> Emitted:
        """Sends an event, with whatever else comes up while a request is under way: `await run.emit(event)`.

        JSON, and what orjson takes: datetime, UUID, dataclasses, enums, pydantic's models. `default` turns what is none
        of these into what is. Raises TypeError for what is no JSON and ValueError for NaN, and then the run goes on
        without the event; and ClientError.
        """
        self._recording.put(text_of(event, default))
        return Emitted(self._recording)

    async def flush(self) -> None:
        """Returns when every event so far is in the log. Raises ClientError."""
        await self._recording.at_most(0)

    @property
    def coordinates(self) -> dict[str, str]:
        """The coordinates that a reader needs: runId, streamUrl, offset and, if the gateway asks who comes, a token."""
        return self._recording.coordinates

    @property
    def _recording(self) -> Recording:
        if self._begun is None:
            raise ClientError(f"{self.url}: not begun: `async with run:`, or `with run as …:`, comes first")
        return self._begun

    async def _begin(self, stack: AsyncExitStack, interrupted: Any) -> Recording:
        session = self._session
        if session is None:
            session = await stack.enter_async_context(sharing(self._token, self._patience))
        shared = session.shared
        recording = Recording(session, self._plan, interrupted)
        shared.writers += 1
        stack.callback(_leave, shared)
        await recording.begin()
        return recording

    # In a thread

    def __enter__(self) -> BlockingRun:
        if self._session is not None:
            raise TypeError("a session belongs to a loop: `async with`, or no session")
        with ExitStack() as stack:
            blocking = BlockingRun(self, stack.enter_context(portal()))
            blocking._enter()
            self._blocking, self._thread = blocking, stack.pop_all()
        return blocking

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._thread:
            self._blocking._exit(error)


class BlockingRun(_Recorded):
    """A run in code without a loop: `with Run("http://127.0.0.1:8080/runs/17") as run: run.emit({"type": "token"})`.

    Everything is as in `Run`, but that a cancel, or the run's loss, interrupts nothing: it is raised by the next `emit`
    or `flush`, and at the block's end. `cancelled` tells whether there was one.
    """

    def __init__(self, run: Run, portal: Portal) -> None:
        super().__init__(run._plan)
        self._run = run
        self._portal = portal
        self._recording: Recording

    def emit(self, event: object, default: Default | None = None) -> None:
        """As `Run.emit`; waits only when too much waits already."""
        text = text_of(event, default)
        self._check()
        self._portal.loop.call_soon_threadsafe(self._put, text)
        if self._recording.bytes > AHEAD:
            self._portal.call(self._recording.at_most(AHEAD))

    def flush(self) -> None:
        """Returns when every event so far is in the log. Raises ClientError."""
        self._check()
        self._portal.call(self._recording.at_most(0))

    @property
    def cancelled(self) -> bool:
        """Whether the run is asked to stop, or another process has taken it over."""
        return self._recording.why is not None

    @property
    def coordinates(self) -> dict[str, str]:
        """As `Run.coordinates`."""
        return self._recording.coordinates

    def _put(self, text: bytes) -> None:
        if self._recording.why is None:  # or else the next call raises it
            self._recording.put(text)

    def _check(self) -> None:
        if self._recording.why is not None:
            raise self._recording.why

    def _enter(self) -> None:
        async def begin() -> None:
            async with AsyncExitStack() as stack:
                self._recording = await self._run._begin(stack, lambda _: None)
                self._stack = stack.pop_all()

        self._portal.call(begin())

    def _exit(self, error: BaseException | None) -> None:
        why = self._recording.why

        async def end() -> None:
            async with self._stack:
                await self._recording.end(why if error is None else error, self._result)

        self._portal.call(end())
        if why is not None and error is None:
            raise why


def _leave(shared: Any) -> None:
    shared.writers -= 1


def _plan(
    url: str,
    workflow: str | None,
    input: object,
    metadata: Mapping[str, Any] | None,
    lease: int,
    ttl: int | None,
    producer: str,
) -> Plan:
    base, place = gateway_of(url), place_of(url)
    if place is not None and (not place.stream.startswith("runs/") or "/" in place.stream[5:]):
        raise ValueError(f"{checked(url)!r} is no run's address: a run is at /runs/<id>")
    # The id is made here, so that a request whose answer was lost makes no second run.
    id = f"run_{uuid.uuid4().hex}" if place is None else place.stream[5:]
    fields: dict[str, Any] = {"id": id, "lease": lease}
    for name, value in (("workflowName", workflow), ("ttl", ttl)):
        if value is not None:
            fields[name] = value
    if metadata is not None:
        fields["metadata"] = dict(mapping("metadata", metadata))
    content = text_of(fields)
    if input is not None:
        content = b'%b,"input":%b}' % (content[:-1], text_of(input))
    for given, what in ((workflow, "workflow"), (producer, "producer")):
        if given is not None and not isinstance(given, str):
            raise TypeError(f"{what} is a str, not {given!r}")
    if type(lease) is not int or not 1 <= lease <= 3600:
        raise ValueError(f"lease is a whole number of seconds from 1 to 3600, not {lease!r}")
    return Plan(base, stream_url(base, id), id, content, lease, producer)


__all__ = ["BlockingRun", "ClientError", "Emitted", "Run"]
