"""The keys of all Machines as this one knows them: read from the database, and read again before a new one signs."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final

from gateway.log import shared_secrets
from gateway.log.database import Database
from gateway.protocol.errors import Unavailable
from gateway.subscriptions.signing import Keys, Signer

FRESH: Final = 60.0  # seconds between reads: half of the time for which a new key is published before it signs
PUBLISHED: Final = 3  # keys that webhooks' signatures can be verified with: the newest, and two before it


class Keyring:
    """The keys, kept for a minute. `gateway.log.shared_secrets` has them for all Machines."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys: Keys | None = None
        self._fresh_until = 0.0

    async def keys(self) -> Keys:
        """Keys of a minute ago at most; older ones while the database is away. Raises Unavailable without any."""
        if self._keys is None:
            self._keys = await read_keys(self._database)
        elif time.monotonic() > self._fresh_until:
            with suppress(Unavailable):  # those that are known are still good
                self._keys = await read_keys(self._database)
                self._fresh_until = time.monotonic() + FRESH
        return self._keys


async def read_keys(database: Database) -> Keys:
    """Reads the keys. A new one is published immediately, and signs when every Machine knows it."""
    found = await shared_secrets.read(database)
    signers = [(Signer(each.secret), each.known) for each in found["sign"]]
    signing = [signer for signer, known in signers if known] or [signers[0][0]]
    coming = [signer for signer, _ in signers if signer not in signing]
    return Keys(signing, found["token"][0].secret, coming)


async def rotate(database: Database) -> None:
    """Makes a key that signs webhooks in two minutes, and withdraws all but the two before it. Raises Unavailable."""
    await shared_secrets.add(database, "sign", keep=PUBLISHED)
