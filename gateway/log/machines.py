"""The other Machines, as far as this one has heard their signs of life: who has to be notified, and how.

Machines of the version before know one channel, the public one: while there are any, appends are notified there as
well. Knows no connection.
"""

from __future__ import annotations

import math
import time
from typing import Final

from gateway.log.payload import KNOWS, Sign

_ALONE_AFTER: Final = 3.0  # seconds of listening, without hearing of another Machine, until there is none
_MOST_BEFORE: Final = 32  # Machines of the version before that are remembered: anybody may say that they are one


class Machines:
    """The other Machines. `own`: this one's name."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._known: dict[str, float] = {}  # Machines, and when they were last heard of
        self._listing: dict[str, float] = {}  # those of them at which somebody follows a list of runs
        self._singly: dict[str, float] = {}  # those of them that read of one stream at a time
        self._before: dict[str, float] = {}  # Machines of the version before
        self._complete_at = math.inf  # when every other Machine has been heard of, by the monotonic clock

    @property
    def notified_by(self) -> str | None:
        """This Machine's name in its notifications; None: no other Machine listens, so that none has to be notified.
        Where that is in doubt, they are.
        """
        alone = not self._known and self._complete and not self._before
        return None if alone else self.name

    @property
    def name(self) -> str:
        """This Machine's name in its notifications: the beginning of the name says which channels they go to."""
        return self._own if self._before or not self._complete else KNOWS + self._own

    @property
    def together(self) -> bool:
        """True if every other Machine reads notifications of several streams."""
        return self._complete and not self._singly and not self._before

    @property
    def listing(self) -> bool:
        """True if somebody follows a list of runs at another Machine, which has to hear of each run that is made."""
        return bool(self._listing)

    @property
    def _complete(self) -> bool:
        """True if this Machine has listened for so long that every other Machine has been heard of."""
        return time.monotonic() > self._complete_at

    def begin(self, *, listens: bool) -> None:
        """Notes that from now on the others are heard, or are not."""
        self._complete_at = time.monotonic() + _ALONE_AFTER if listens else math.inf

    def heard(self, sign: Sign) -> bool:
        """Takes a sign of life. Returns whether the Machine is new."""
        machine, now = sign.machine, time.monotonic()
        new = machine not in self._known
        self._known[machine] = now
        for names, named in ((self._listing, sign.lists), (self._singly, not sign.several)):
            if named:
                names[machine] = now
            else:
                names.pop(machine, None)
        return new

    def heard_in_public(self, sign: Sign) -> bool:
        """Takes a sign of life on the public channel, where those of the version before are. Returns whether the
        Machine is one of them, and new.
        """
        machine = sign.machine
        new = machine not in self._before
        if machine.startswith(KNOWS) or (new and len(self._before) >= _MOST_BEFORE):
            return False
        self._before[machine] = time.monotonic()
        return new

    def forget(self, seconds: float) -> None:
        """Forgets Machines that have been silent for so long."""
        old = time.monotonic() - seconds
        for names in (self._known, self._listing, self._singly, self._before):
            for machine in [machine for machine, heard in names.items() if heard <= old]:
                del names[machine]
