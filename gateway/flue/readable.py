"""The workflows whose runs may be read here. In Flue the app's own middleware decides that, which is not asked here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Readable:
    """`name in readable`. `names` None: all."""

    names: frozenset[str] | None

    def __contains__(self, workflow: str) -> bool:
        return self.names is None or workflow in self.names


def readable(workflows: str | None, *, gated: bool) -> Readable:
    """`workflows`: names with commas between, or `*`. None: all if readers need a credential (`gated`), else none."""
    if workflows == "*" or (workflows is None and gated):
        return Readable(None)
    return Readable(frozenset(name.strip() for name in (workflows or "").split(",")))
