"""The port for another system's runs, which are served beside the gateway's own as runs of the default tenant."""

from __future__ import annotations

from typing import Protocol


class Others(Protocol):
    """What has to be known of them where the gateway makes a run, or a token for one."""

    async def taken(self, run: str) -> bool:
        """Whether there is one with this id, even one that may not be read here."""
        ...

    async def find(self, run: str) -> None:
        """Raises a 404 unless there is one that may be read here."""
        ...
