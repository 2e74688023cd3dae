"""Which workflows' runs may be read here: the app's own middleware, which decides that in Flue, is not asked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Readable:
    """`name in readable`. `names` None: all."""

    names: frozenset[str] | None

    def __contains__(self, workflow: str) -> bool:
        return self.names is None or workflow in self.names


def readable(workflows: str | None, *, gated: bool) -> Readable:
    """A list of names, or `*` for all. Without one: all, where `gated` readers show a key; else nothing."""
    if workflows == "*" or (workflows is None and gated):
        return Readable(None)
    return Readable(frozenset(name.strip() for name in (workflows or "").split(",")))
