"""Who comes to the gateway in these tests, and what each shows."""

from __future__ import annotations

from typing import Any, Final

KEYS: Final = {
    "all": "read,write,control,admin",
    "reader": "read",
    "writer": "write",
    "controller": "control",
    "admin": "admin",
    "all@acme": "read,write,control,admin",
    "all@globex": "read,write,control,admin",
}


def secret(name: str) -> str:
    """What the holder of this key knows."""
    return f"secret-of-{name.replace('@', '-at-')}-key"


def as_key(name: str) -> dict[str, str]:
    """The headers of a request by the holder of this key."""
    return {"authorization": f"Bearer {secret(name)}"}


def settings() -> dict[str, Any]:
    return {"auth": "keys", "keys": " ".join(f"{name}:{scopes}:{secret(name)}" for name, scopes in KEYS.items())}
