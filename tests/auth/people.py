"""Who comes to the gateway in these tests, and what each shows."""

from __future__ import annotations

import time
from typing import Any, Final

import jwt

SECRET: Final = "the secret that JWTs of these tests are signed with"
KEYS: Final = {
    "all": "read,write,control,admin",
    "reader": "read",
    "writer": "write",
    "controller": "control",
    "admin": "admin",
    "all-but-read": "write,control,admin",
    "all-but-write": "read,control,admin",
    "all-but-control": "read,write,admin",
    "all-but-admin": "read,write,control",
    "all@acme": "read,write,control,admin",
    "all@globex": "read,write,control,admin",
}


def secret(name: str) -> str:
    """What the holder of this key knows."""
    return f"secret-of-{name.replace('@', '-at-')}-key"


def as_key(name: str) -> dict[str, str]:
    """The headers of a request by the holder of this key."""
    return {"authorization": f"Bearer {secret(name)}"}


def as_jwt(scope: str, *, lives: int = 600, **claims: Any) -> dict[str, str]:
    """The headers of a request by the bearer of a JWT that lives so many seconds from now."""
    token = jwt.encode({"sub": "ada", "scope": scope, "exp": int(time.time()) + lives, **claims}, SECRET, "HS256")
    return {"authorization": f"Bearer {token}"}


def settings() -> dict[str, Any]:
    keys = " ".join(f"{name}:{scopes}:{secret(name)}" for name, scopes in KEYS.items())
    return {"auth": "jwt,keys", "keys": keys, "jwt_secret": SECRET}
