"""The feed of commits. Telling is not deciding (law 10): whatever a subscriber raises changes no outcome.

A subscriber that raises is called with the next change all the same, and keeps no other from being called.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Generic, ParamSpec

from gateway.outage import SeldomLogger
from gateway.protocol.batch import News
from gateway.protocol.offset import COUNT
from gateway.protocol.target import Part

logger = logging.getLogger("gateway.feed")

P = ParamSpec("P")
_CONTROL: Final = Part.CONTROL.value
_FAILED: Final = "Telling %s of a committed change failed; the commit stands."


class Channel(Generic[P]):
    """Calls its subscribers one after the other, in the order in which they subscribed. Never raises."""

    def __init__(self) -> None:
        self._subscribers: tuple[Callable[P, None], ...] = ()
        self._seldom_logger = SeldomLogger(logger)

    def subscribe(self, *subscribers: Callable[P, None]) -> None:
        self._subscribers += subscribers

    def unsubscribe(self, subscriber: Callable[P, None]) -> None:
        self._subscribers = tuple(each for each in self._subscribers if each != subscriber)

    def __call__(self, *arguments: P.args, **named: P.kwargs) -> None:
        for subscriber in self._subscribers:
            try:
                subscriber(*arguments, **named)
            except Exception:
                self._seldom_logger.exception(_FAILED, _name(subscriber))


class Commits(Channel[[News]]):
    """A channel of changes, several of which may come at one time. `turns`: those of them with which a stream begins
    (its first events), is closed or is deleted, and all of a run's control stream, where a cancel may come behind other
    messages. Its subscribers are called after the others.
    """

    def __init__(self) -> None:
        super().__init__()
        self.turns: Final[Channel[[News]]] = Channel()

    def __call__(self, change: News) -> None:
        self.each((change,))

    def each(self, changes: Sequence[News]) -> None:
        """Calls each subscriber with all of them, one after the other."""
        for subscriber in self._subscribers:
            for change in changes:
                try:
                    subscriber(change)
                except Exception:
                    self._seldom_logger.exception(_FAILED, _name(subscriber))
        for change in changes:
            # Every event of every Machine is asked: so the first in its epoch is known by its bits.
            if change.first & COUNT <= 1 or change.closed or change.deleted or change.path.endswith(_CONTROL):
                self.turns(change)


def _name(subscriber: Callable[..., None]) -> object:
    return getattr(subscriber, "__qualname__", subscriber)


class Feed:
    """The changes of all streams, as one Machine comes to know of them."""

    def __init__(self) -> None:
        self.committed: Final = Commits()
        """Events were committed, or a stream was closed or deleted, by this Machine."""
        self.together: Callable[[], AbstractContextManager[None]] = nullcontext
        """A block within which several commits are told, without a turn of the loop: readers are sent them at once."""
        self.answering: Callable[[], AbstractContextManager[None]] = nullcontext
        """The same for several requests that are told their outcome: their clients are answered at once."""
        self.heard: Final = Commits()
        """The same by another Machine. A hint (law 2): it may be late, doubled or missing."""
        self.hinted: Final = Commits()
        """A source that cannot be trusted says the same: the log has to be asked."""
        self.created: Final[Channel[[str, int]]] = Channel()
        """This Machine has made a stream: its path and its tail."""
        self.stood: Final[Channel[[str, int, bool]]] = Channel()
        """A client was answered where an unchanged stream stands: its path, its tail, and whether it is closed."""
        self.doubted: Final[Channel[[list[str]]]] = Channel()
        """Appends to streams at these paths may have been applied or not: the log has to be asked."""
        self.missed: Final[Channel[[]]] = Channel()
        """Any news may have been missed: everything that is followed has to be compared with the log."""
