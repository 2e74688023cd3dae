"""Runs of another system, served beside the gateway's own of the default tenant."""

from __future__ import annotations

from typing import Protocol


class Others(Protocol):
    """What the gateway's own runs have to know of them."""

    async def taken(self, run: str) -> bool:
        """Whether there is one of this id, be it shown here or not."""
        ...

    async def find(self, run: str) -> None:
        """Raises a 404 unless there is one that may be read here."""
        ...
