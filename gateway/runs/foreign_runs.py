"""The port for another system's runs, which are served beside the gateway's own, as runs of the default tenant.

`gateway.flue` is the one that there is.
"""

from __future__ import annotations

from typing import Protocol


class Others(Protocol):
    """The port to another system's runs, asked before the gateway makes a run of its own, or a token for a run."""

    async def taken(self, run: str) -> bool:
        """True if one of them has this id and may be read here: then the gateway makes no run of this id."""
        ...

    async def find(self, run: str) -> int:
        """A number that stands for the id of its stream in tokens and pages, unlike that of any stream of the gateway's
        own.

        Raises a refusal with status 404 unless one of them has this id and may be read here.
        """
        ...
