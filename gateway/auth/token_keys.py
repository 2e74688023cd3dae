"""The keys that sign read tokens: those of the settings, or else those that all Machines share in the database.

Several are valid at a time, and the newest signs, so that a key can be changed while its tokens are in use.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from gateway.auth import read_tokens
from gateway.auth.principal import Principal
from gateway.auth.read_tokens import PREFIX, Capability, key_id, key_id_of
from gateway.auth.token_counts import TokenCounts, forget
from gateway.log import shared_secrets
from gateway.log.database import Database
from gateway.protocol.errors import Unavailable
from gateway.tasks import end, forever, kept

REFRESH: Final = 60.0  # seconds between reads of the database, after which a deleted key is no longer accepted
PAUSE: Final = 1.0  # seconds, at least, between reads for unknown keys, since a token may name any key


def derived(secret: bytes) -> bytes:
    """The key that read tokens are signed with, made from the shared secret.

    The shared secret itself signs the tokens of subscriptions' wakes, and neither kind may pass for the other.
    """
    return hmac.digest(secret, b"run-gateway read tokens", "sha256")


class ReadTokens:
    """Signs and verifies. `secrets`: of the settings, newest first; none: the database's.

    `on_change` is called when the keys differ from those before. Raises Unavailable when it needs the database in vain.
    """

    def __init__(self, database: Database, secrets: Sequence[str], on_change: Callable[[], None]) -> None:
        self._database = database
        self._on_change = on_change
        self._set = bool(secrets)
        self._keys = [derived(secret.encode()) for secret in reversed(secrets)]  # the newest last
        self.counts: Final = TokenCounts(database)
        self._looked_at = float("-inf")
        self._task: asyncio.Task[None] | None = None
        self._soon: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if not self._set:
            with suppress(Unavailable):  # the keys are read again when they are needed
                await self._look()
            self._task = kept("keys of tokens", self._run)

    async def stop(self) -> None:
        with suppress(Unavailable):
            await end(self._task, self._soon)
        if not self._set:
            with suppress(Unavailable):
                await self.counts.tell()

    def takes(self, token: str) -> bool:
        """True if a token looks like a read token."""
        return token.startswith(PREFIX)

    async def verify(self, token: str, digest: bytes) -> Principal:
        """Its bearer. Raises TokenInvalid."""
        if key_id_of(token) not in map(key_id, self._keys):
            await self._look_soon()
        return read_tokens.read(token, {key_id(key): key for key in self._keys}).principal(digest)

    async def sign(self, capability: Capability) -> str:
        """The token, by the newest key."""
        return (await self.signer())(capability)

    async def signer(self) -> Callable[[Capability], str]:
        """The function that makes tokens, by the newest key."""
        if not self._keys:
            await self._look()
        key = self._keys[-1]

        def sign(capability: Capability) -> str:
            if not self._set:
                self.counts.made(capability.expires)
            return read_tokens.sign(capability, key)

        return sign

    async def _run(self) -> None:
        await forever(
            "Reading the keys of tokens", self._look_and_tell, lambda: REFRESH, late=True
        )  # without a database, what is known stays valid

    async def _look_and_tell(self) -> None:
        await self._look()
        await self.counts.tell()

    async def _look_soon(self) -> None:
        """Reads the keys anew, once for all that ask: another Machine may have signed with a newer key."""
        if self._set:
            return
        if self._soon is None or self._soon.done():
            self._soon = asyncio.create_task(self._look(after=PAUSE))
        await asyncio.shield(self._soon)

    async def _look(self, after: float = 0.0) -> None:
        """Reads the keys, at least `after` seconds after the last time."""
        await asyncio.sleep(self._looked_at + after - asyncio.get_running_loop().time())
        found = await shared_secrets.read(self._database)
        self._looked_at = asyncio.get_running_loop().time()
        keys = [derived(each.secret) for each in found["token"]]
        if keys != self._keys:
            self._keys = keys
            self._on_change()


async def rotate(database: Database, *, revoke: bool = False) -> int:
    """Adds a key, which signs from now on; its number. `revoke`: and deletes all others. Raises Unavailable."""
    number = await shared_secrets.add(database, "token", keep=1 if revoke else None)
    if revoke:
        await forget(database)
    return number
