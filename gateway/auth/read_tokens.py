"""Read tokens: a signed capability for one run, good for its holder until it expires. Pure.

A token is `rgt_`, eight characters that name the key, the capability, and a MAC. Every Machine that knows the key can
check one without looking anything up. Therefore none can be revoked, so they should not live long; but each is bound to
its stream itself, and opens no later stream at that path.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import orjson

from gateway.auth.errors import TokenInvalid
from gateway.auth.principal import Principal
from gateway.protocol import base64url

PREFIX: Final = "rgt_"  # so that people, and programs that look for secrets, see what it is
_ID: Final = 8  # characters of a key's id
# The stream's id stands in the fraction of the expiry, which is too small for a float to hold: Machines of the version
# before, which know four fields and no id, read the very same expiry.
_STREAM_ID: Final = re.compile(rb"\.([0-9]{20})\]")


@dataclass(frozen=True, slots=True)
class Capability:
    """The meaning of a token. `stream`: the run's path as clients know it. `expires`: whole Unix seconds.

    `stream_id`: the log's own number of that stream. None: the token is of the version before, and opens any stream at
    the path.
    """

    tenant: str
    stream: str
    control: bool
    expires: int
    stream_id: int | None = None

    def principal(self, digest: bytes) -> Principal:
        """The bearer of a token. `digest`: of the token, which tells it from others for its run."""
        return Principal(
            id=f"token:{digest.hex()[:16]}",
            scopes=frozenset({"read", "control"} if self.control else {"read"}),
            tenant=self.tenant,
            stream=self.stream,
            stream_id=self.stream_id,
            expires=self.expires,
        )


def key_id(key: bytes) -> str:
    """The id by which tokens name the key. It reveals nothing of the key."""
    return sha256(b"run-gateway key id" + key).hexdigest()[:_ID]


def key_id_of(token: str) -> str:
    """The id of the key that a token says it was signed with."""
    return token[len(PREFIX) : len(PREFIX) + _ID]


def sign(capability: Capability, key: bytes) -> str:
    """The token."""
    fields = orjson.dumps([capability.tenant, capability.stream, capability.control, capability.expires])
    if capability.stream_id is not None:
        fields = fields[:-1] + b".%020d]" % capability.stream_id
    signed = f"{PREFIX}{key_id(key)}{base64url.encode(fields)}"
    return f"{signed}.{base64url.encode(_mac(signed, key))}"


def read(token: str, keys: Mapping[str, bytes]) -> Capability:
    """The capability of a token. `keys` are by id.

    Raises TokenInvalid if none of them signed it; expiry is not checked here.
    """
    signed, _, mac = token.partition(".")
    key = keys.get(key_id_of(token))
    if key is None or not hmac.compare_digest(mac.encode(), base64url.encode(_mac(signed, key)).encode()):
        raise TokenInvalid
    # We signed it, so its form is known.
    fields = base64url.decode(signed[len(PREFIX) + _ID :])
    tenant, stream, control, expires = orjson.loads(fields)
    stream_id = _STREAM_ID.fullmatch(fields, len(fields) - 22)
    return Capability(tenant, stream, control, int(expires), None if stream_id is None else int(stream_id[1]))


def _mac(signed: str, key: bytes) -> bytes:
    return hmac.digest(key, signed.encode(), "sha256")
