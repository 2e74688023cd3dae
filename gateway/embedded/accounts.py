"""The account that Postgres runs as: the gateway's own, and never root, which Postgres refuses to be."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gateway.embedded.errors import EmbeddedPostgresError

if sys.platform != "win32":
    import pwd

NAMES = ("postgres", "nobody")

# The user's PGDATA, PGPORT, PGOPTIONS or locale must not reach our Postgres; TZ spares initdb a search.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True)
class Account:
    """The unprivileged user that Postgres runs as when the gateway is root."""

    uid: int
    gid: int


def choose_account(clusters: Iterable[Path]) -> Account | None:
    """The account to run as; None: our own. Raises EmbeddedPostgresError when root finds no user for it."""
    if os.geteuid() != 0:
        return None
    for found in (path.stat() for path in clusters):
        if found.st_uid != 0:  # the account that began with this data goes on
            return Account(found.st_uid, found.st_gid)
    for name in NAMES:
        with contextlib.suppress(KeyError):
            return Account(pwd.getpwnam(name).pw_uid, pwd.getpwnam(name).pw_gid)
    raise EmbeddedPostgresError(
        f"Postgres does not run as root, and there is no user {' or '.join(NAMES)} on this machine. "
        "Run the gateway as another user, or set DATABASE_URL to use a Postgres of your own."
    )
