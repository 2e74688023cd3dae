"""Background tasks: how they are begun, kept going and ended, and how long work gives way.

It knows nothing of the house but how a refusal looks.

The rule for what runs as long as its Machine does: if it ends, that is logged, and it is begun again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from gateway.outage import Outage, SeldomLogger
from gateway.protocol.errors import ProtocolError

_T = TypeVar("_T")

logger = logging.getLogger("gateway.tasks")
seldom_logger: Final = SeldomLogger(logger)

AGAIN: Final = 1.0  # seconds until what has ended is begun again
LITTLE: Final = 4 << 10  # bytes that take 0.1 ms to be taken apart, more or less
FEW: Final = 16  # pieces of work with so little that share a turn of the loop
WOKEN: Final = 64  # tasks that `wake` has go on in one turn of the loop: what each does next takes up to 0.1 ms
LARGE: Final = 32  # times 0.1 ms that `in_its_turn` gives in one turn of the loop, in which there is other work as well


def kept(name: str, run: Callable[[], Awaitable[None]], *, again: float = AGAIN) -> asyncio.Task[None]:
    """A task that runs what is not to end before it is cancelled. `again`: seconds until it is begun again."""

    async def keep() -> None:
        while True:
            try:
                await run()
                logger.error("%s has ended, and should not have; it is begun again.", name)
            except Exception:
                logger.exception("%s has failed; it is begun again.", name)
            await asyncio.sleep(again)

    return asyncio.create_task(keep(), name=name)


async def forever(
    name: str,
    step: Callable[[], Awaitable[float | None]],
    pause: Callable[[], float],
    outage: Outage | None = None,
    *,
    bell: asyncio.Event | None = None,
    late: bool = False,
) -> None:
    """Does a step again and again, until cancelled: the one loop of all that a Machine does by itself.

    Between two steps it waits `pause()` seconds, or as many as the step returns, or until `bell` rings. `late`: it
    waits before the first one, too. A step that is refused, as while the database is away, begins the outage, whose
    line has one `%r` for the cause; the next that succeeds ends it. Without an outage a refusal is not logged. An
    unexpected error is logged under `name`, at most once a second, and the next step tries again.
    """
    rest = pause() if late else 0.0
    while True:
        await _rest(rest, bell)
        wait = None
        try:
            wait = await step()
            if outage is not None:
                outage.end()
        except ProtocolError as error:
            if outage is not None:
                outage.begin(error.__cause__)
        except Exception:
            seldom_logger.exception(f"{name} failed unexpectedly; the next turn tries again.")
        rest = pause() if wait is None else wait


async def _rest(seconds: float, bell: asyncio.Event | None) -> None:
    if bell is None:
        await asyncio.sleep(seconds)
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await bell.wait()
    bell.clear()


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Does all work at the same time. Where one part fails, the others are ended, and what it raised is raised."""
    tasks = [asyncio.create_task(part) for part in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class _Gate:
    """Lets `most` pieces of work through in each turn of the loop that it is used in, in the order of their coming."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._begun = False  # the next turn is waited for

    async def __call__(self) -> None:
        loop = asyncio.get_running_loop()
        if not self._begun:
            self._begun = True
            loop.call_soon(self._turn)
        if self._left and not self._waiting:
            self._left -= 1
            return
        place = loop.create_future()
        self._waiting.append(place)
        await place

    def _turn(self) -> None:
        self._left = self._most
        while self._waiting and self._left:
            place = self._waiting.popleft()
            if not place.done():  # or else its task was cancelled
                place.set_result(None)
                self._left -= 1
        self._begun = self._left < self._most
        if self._begun:
            asyncio.get_running_loop().call_soon(self._turn)  # behind what that has woken


class _Pace:
    """Wakes at most `most` tasks that wait for futures in one turn of the loop, in the order of their calls; fewer
    where the next step of each takes `times` as long.
    """

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self._turn: asyncio.Handle | None = None

    def __call__(self, future: asyncio.Future[None], times: int = 1) -> None:
        if self._left > 0 and not self._waiting:
            self._wake(future, times)
        else:
            self._waiting.append((future, times))
        self._await_turn()

    def has_room(self, times: int) -> bool:
        """Takes room for a step in this turn. False: there is none, or others wait for it."""
        if self._left <= 0 or self._waiting:
            return False
        self._left -= times
        self._await_turn()
        return True

    def _await_turn(self) -> None:
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        """Another turn."""
        self._turn = None
        self._left = self._most
        while self._waiting and self._left > 0:
            self._wake(*self._waiting.popleft())
        if self._left < self._most:
            self._await_turn()

    def _wake(self, future: asyncio.Future[None], times: int) -> None:
        if not future.done():  # or else its task was cancelled
            future.set_result(None)
            self._left -= times


_gates: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[_Gate, _Gate]]] = WeakKeyDictionary()
_paces: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[_Pace, _Pace]]] = WeakKeyDictionary()


def _gate(size: int | None) -> _Gate:
    """The gate for work of so many bytes: what is soon done does not wait for what takes long."""
    loop = asyncio.get_running_loop()
    gates = _gates.get(loop)
    if gates is None:
        gates = _gates[loop] = _Gate(1), _Gate(FEW)
    return gates[size is not None and size <= LITTLE]


def _pace(*, large: bool) -> _Pace:
    """The pace of small steps, or of large ones, for which the small ones do not wait."""
    loop = asyncio.get_running_loop()
    paces = _paces.get(loop)
    if paces is None:
        paces = _paces[loop] = _Pace(WOKEN), _Pace(LARGE)
    return paces[large]


def wake(future: asyncio.Future[None]) -> None:
    """Wakes the task that waits for a future: now, or in one of the next turns of the loop.

    Where a thousand tasks are woken at one time, all of them would else do their next step in one turn.
    """
    _pace(large=False)(future)


async def in_its_turn(times: int) -> None:
    """Goes on when this turn of the loop, or one of the next, has room for a step of `times` 0.1 ms. For a task that
    others wake, as the sockets of a library do.
    """
    pace = _pace(large=True)
    if not pace.has_room(times):
        place = asyncio.get_running_loop().create_future()
        pace(place, times)
        await place


class Bell:
    """An event that one task waits for: an asyncio.Event, except that the task is woken by `wake`."""

    __slots__ = ("_rung", "_waiter")

    def __init__(self) -> None:
        self._rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wakes the task, now or as soon as it waits."""
        self._rung = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            wake(waiter)

    def clear(self) -> None:
        self._rung = False

    async def wait(self) -> None:
        if not self._rung:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter


async def turn(size: int | None = None) -> None:
    """Waits for a turn of the loop, as a piece of work does (see `in_turns`)."""
    await _gate(size)()


async def in_turns(work: Generator[None, None, _T], size: int | None = None) -> _T:
    """Does work that gives way now and then. Each piece has a turn of the loop of its own, which it shares with no
    other, or with a FEW, all of which are of works that have LITTLE to do. Raises what it raises.

    `size`: bytes that the work is about, as far as that is known.
    """
    gate = _gate(size)
    try:
        while True:
            await gate()
            next(work)
    except StopIteration as end:
        result: _T = end.value
        return result


async def end(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancels tasks and waits until all have ended. None is a task that was never started.

    Raises what a task had failed with.
    """
    started = [task for task in tasks if task is not None]
    for task in started:
        task.cancel()
    if started:
        await asyncio.wait(started)
    for task in started:
        if not task.cancelled():
            task.result()
