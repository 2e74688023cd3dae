"""Keys: named secrets with scopes, from the environment and from a file that can be read again while serving.

A name may occur twice, with an old secret and a new one: both are valid while clients change over.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final

from gateway.auth.principal import SCOPES, TENANT, Principal, scopes_of
from gateway.settings import BadSetting

logger = logging.getLogger("gateway.auth.keys")

_KEY: Final = "key:"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SECRET: Final = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")  # what a Bearer token may hold, and too long to guess


class Keys:
    """The keys, by the digest of their secret. Raises BadSetting, whose message holds no secret.

    The time of a look-up in the dict tells nothing of the secrets. It compares digests, and a client that guesses
    secrets cannot choose their digests so that they approach one that is there.
    """

    def __init__(self, text: str | None, file: Path | None) -> None:
        self._text = text
        self._file = file
        self._by_digest = self._read()

    @property
    def names(self) -> list[str]:
        """The names of their owners."""
        return sorted({_owner(principal) for principal in self._by_digest.values()})

    def find(self, digest: bytes) -> Principal | None:
        """The principal whose secret has this SHA-256 digest."""
        return self._by_digest.get(digest)

    def read_again(self) -> None:
        """Takes what the file holds now; if that cannot be used, everything stays as it was."""
        try:
            self._by_digest = self._read()
        except BadSetting as error:
            logger.error("GATEWAY_KEYS_FILE was not taken over, and the keys read before stay valid: %s.", error)
        else:
            logger.info("Read %d keys.", len(self._by_digest))

    def _read(self) -> dict[bytes, Principal]:
        entries = [*_parse(self._text or "", "GATEWAY_KEYS")]
        if self._file is not None:
            try:
                text = self._file.read_text()
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "not text"
                raise BadSetting(f"cannot read {self._file}: {reason}") from None
            entries += _parse("\n".join(line.partition("#")[0] for line in text.splitlines()), str(self._file))
        if not entries:
            raise BadSetting("neither GATEWAY_KEYS nor GATEWAY_KEYS_FILE holds a key")
        return _gathered(entries)


def _gathered(entries: Iterable[tuple[bytes, Principal]]) -> dict[bytes, Principal]:
    found: dict[bytes, Principal] = {}
    for digest, principal in entries:
        other = found.setdefault(digest, principal)
        if other.id != principal.id:
            raise BadSetting(f"{_owner(other)} and {_owner(principal)} have the same secret: each needs its own")
        if other != principal:  # the very same key twice does no harm
            raise BadSetting(f"{_owner(other)} has the same secret twice, with different scopes")
    return found


def _owner(principal: Principal) -> str:
    return principal.id.removeprefix(_KEY)


def _parse(text: str, source: str) -> Iterator[tuple[bytes, Principal]]:
    for number, entry in enumerate(text.split(), 1):
        where = f"{source}, key {number}"
        owner, _, rest = entry.partition(":")
        names, _, secret = rest.partition(":")
        name, at, tenant = owner.partition("@")
        # The message has only the number: an operator who mixed up the order has written the secret first.
        if entry.count(":") != 2 or not _NAME.fullmatch(name) or (at and not TENANT.fullmatch(tenant)):
            raise BadSetting(f"{where}: must be NAME:SCOPES:SECRET or NAME@TENANT:SCOPES:SECRET")
        asked = names.split(",")
        if not set(asked) <= SCOPES:
            raise BadSetting(f"{where}: scopes must be of {', '.join(sorted(SCOPES))}")
        if not _SECRET.fullmatch(secret):
            raise BadSetting(f"{where}: the secret must be 16 to 512 characters of A-Z a-z 0-9 . _ ~ + / = -")
        yield sha256(secret.encode()).digest(), Principal(_KEY + owner, scopes_of(asked), tenant)
