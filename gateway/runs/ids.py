"""Ids of runs: `run_` and a ULID, which sorts by the time when it was made."""

from __future__ import annotations

from typing import Final

CHANCE_BYTES: Final = 10
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def run_id(now: float, chance: bytes) -> str:
    """The id of a run made at `now` (seconds since 1970), with CHANCE_BYTES of `chance` (github.com/ulid/spec)."""
    number = int(now * 1000) << 80 | int.from_bytes(chance)
    return "run_" + "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))
