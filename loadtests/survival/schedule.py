"""Which fault comes when, whom it hits, and how long it lasts: all of it from a seed. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

KILL = "kill a Machine"
TERMINATE = "terminate a Machine"
INTERRUPT = "interrupt a Machine"
FREEZE = "freeze a Machine"
CLOCK = "set a Machine's clock"
CUT = "cut clients off"
TEAR = "tear a frame"
SILENCE = "clients half-open"
CUT_DATABASE = "cut the database off"
SILENCE_DATABASE = "database half-open"
RESTART = "restart Postgres"
CRASH = "crash Postgres"
FULL = "fill the disk"
POOLER = "kill the pooler"
LISTENERS = "terminate listeners"
BACKENDS = "terminate backends"
BLOCK = "block rows"
KILL_FLUE = "kill a Flue server"
TERMINATE_FLUE = "terminate a Flue server"
FREEZE_FLUE = "freeze a Flue server"
CUT_FLUE = "cut a Flue server's database off"
DETACH = "detach Flue's triggers"
KILL_APP = "kill an application"
FREEZE_APP = "freeze an application"
OVERTAKE = "freeze a Machine for longer than its lease"
APART = "cut gateways off from each other"
SILENCE_APART = "gateways half-open to each other"
FAILOVER = "lose the primary"
HANDOVER = "hand over to the standby"
LAGGING = "lose the primary, with a lagging standby"
PAUSE_REPLICA = "pause the replica"
CUT_REPLICA = "cut the replica off"
SILENCE_REPLICA = "replica half-open"
PROMOTE_REPLICA = "promote the replica"

ENDING = (KILL, TERMINATE, INTERRUPT)  # what a Machine's process does not outlive
KINDS = (
    KILL, TERMINATE, INTERRUPT, FREEZE, CLOCK,
    CUT, TEAR, SILENCE, CUT_DATABASE, SILENCE_DATABASE,
    RESTART, CRASH, FULL, POOLER, LISTENERS, BACKENDS, BLOCK,
)  # fmt: skip
OF_FLUE = (KILL_FLUE, TERMINATE_FLUE, FREEZE_FLUE, CUT_FLUE, DETACH)
OF_OWNED = (KILL_APP, FREEZE_APP, OVERTAKE, APART, SILENCE_APART)
NOT_OF_OWNED = (TEAR, BLOCK, LISTENERS)  # only runs would notice
OF_CLUSTER = (FAILOVER, HANDOVER)
OF_LAGGING = (LAGGING,) * 3  # as often as three others
OF_REPLICA = (PAUSE_REPLICA, CUT_REPLICA, SILENCE_REPLICA, PROMOTE_REPLICA)

LONGEST = 10.0  # seconds that a fault lasts
PAUSE = 1.5  # seconds between the beginnings of two, on average; less where that is too long for one of each kind


@dataclass(frozen=True)
class Fault:
    """`at` and `lasts` are seconds; `machine` is whom it hits, where it hits one."""

    at: float
    kind: str
    machine: int
    lasts: float


def draw(
    seed: int, seconds: float, kinds: Sequence[str], machines: int, spared: int | None = None, pause: float = PAUSE
) -> list[Fault]:
    """Faults for so many seconds, in order of time; each kind comes once before any comes again.

    `spared` is a Machine whose process is never ended.
    """
    rng = random.Random(seed)
    longest = min(LONGEST, max(1.0, seconds / 8))
    pause = min(pause, seconds / (len(kinds) + 1))
    faults: list[Fault] = []
    deck: list[str] = []
    at = rng.uniform(0.5, 1.0)
    while at < seconds:
        if not deck:
            deck = rng.sample(kinds, len(kinds))
        kind = deck.pop()
        mortal = [number for number in range(machines) if kind not in ENDING or number != spared]
        faults.append(Fault(at, kind, rng.choice(mortal), rng.uniform(0.1, 1) * longest))
        at += rng.uniform(0.5, 1.5) * pause
    return faults
