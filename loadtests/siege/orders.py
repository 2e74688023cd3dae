"""What attackers are told, as one JSON line: where the Machines are, which keys they have, and for how long."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

HONEST = "honest"  # the tenants
MALLORY = "mallory"
NICE = 10  # of attackers: a Machine has processors of its own, and the test is not who has more
SEEDED = "seeded"  # runs of the attacker's that are there before it begins are called so, and a number


@dataclass(frozen=True)
class Orders:
    """`row`: of issue 13's table. `keys`: secrets by scope, each as narrow as may be. `event`: bytes of a large one."""

    row: int
    urls: tuple[str, ...]
    keys: Mapping[str, str]
    seconds: float
    event: int

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def parse(cls, line: str) -> Orders:
        fields = json.loads(line)
        return cls(**{**fields, "urls": tuple(fields["urls"])})
