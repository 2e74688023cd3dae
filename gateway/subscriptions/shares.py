"""Shares of the webhooks that are called at one time: a fair one for each tenant, and for each of a tenant's hosts.

Pure. A tenant may take half of what is free, counted without its own: alone a third of all; with others so much that
there is always room for one more tenant, however many have endpoints that hang.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

MOST: Final = 256  # attempts at once
MOST_OF_HOST: Final = 16  # of one tenant's at one host


class Shares:
    """The attempts under way, by tenant and host."""

    def __init__(self, most: int = MOST, most_of_host: int = MOST_OF_HOST) -> None:
        self._most = most
        self._most_of_host = most_of_host
        self._tenants = Counter[str]()
        self._hosts = Counter[tuple[str, str]]()

    @property
    def free(self) -> int:
        return self._most - self._tenants.total()

    def take(self, tenant: str, host: str) -> bool:
        """Takes one, if the tenant and its host have a share left. Returns whether they had."""
        if (
            self._tenants[tenant] >= max(self.free // 2, min(1, self.free))
            or self._hosts[tenant, host] >= self._most_of_host
        ):
            return False
        self._tenants[tenant] += 1
        self._hosts[tenant, host] += 1
        return True

    def give_back(self, tenant: str, host: str) -> None:
        self._tenants[tenant] -= 1
        self._hosts[tenant, host] -= 1
        self._tenants, self._hosts = +self._tenants, +self._hosts  # nothing is remembered of who has none


def chosen(shares: Shares, due: Iterable[tuple[int, str, str]]) -> list[tuple[int, str, str]]:
    """The deliveries that may be attempted now, in their order; each has taken its share."""
    return [each for each in due if shares.take(each[1], each[2])]
