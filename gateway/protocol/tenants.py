"""Tenants are namespaces: inside the gateway a tenant's name stands before each of its paths and subscription ids.

Clients cannot send the separator (control characters are refused), so no client can name a path of another tenant.
"""

from __future__ import annotations

from typing import Final

SEPARATOR: Final = "\x1f"  # ASCII's own "unit separator"


def within(tenant: str, name: str) -> str:
    """A client's path or id as it is stored; those of the default tenant, "", are stored as they are."""
    return f"{tenant}{SEPARATOR}{name}" if tenant else name


def without(name: str) -> str:
    """A stored path or id as its client knows it."""
    return name.rpartition(SEPARATOR)[2]


def shown(name: str) -> str:
    """A stored path or id as the operator's log shows it: `acme:runs/17`."""
    return name.replace(SEPARATOR, ":")


def tenant_of(name: str) -> str:
    """The tenant of a stored path or id; the default one is ""."""
    return name.rpartition(SEPARATOR)[0]
