"""Names that say by themselves what they lead to: of runs, and of frames (`Last-Event-ID`).

Pure: time, chance and the secret are arguments. A run's id ends with a mark of its client's credential, so that nobody
else's request is answered by it, and no table has to be asked for that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from gateway.relay.keys import Asked, Source
from gateway.runs.ids import run_id

_MARK_BYTES: Final = 10
_RUN: Final = re.compile(r"run_[0-9A-Z]{26}(?:-[0-9a-f]{20})?")
_FRAME: Final = re.compile(rb"(run_[0-9A-Z]{26}(?:-[0-9a-f]{20})?)\.([0-9]{1,19})")
_LARGEST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a client that sends this id: it has everything of this run up to this position."""

    run: str
    position: int


def frame_id(run: str, position: int) -> bytes:
    """The id of the frame after which this position is."""
    return b"%b.%d" % (run.encode(), position)


def parse_frame_id(text: bytes) -> Place | None:
    """Parses an id; None: it is none of ours."""
    found = _FRAME.fullmatch(text.strip())
    if found is None or int(found[2]) > _LARGEST:
        return None
    return Place(found[1].decode(), int(found[2]))


def credential_of(sources: Sequence[Source], asked: Asked, secret: bytes) -> bytes:
    """A keyed digest of what tells a client apart; nothing, where the row names nothing. What is missing counts too."""
    if not sources:
        return b""
    digest = blake2b(key=secret, digest_size=32)
    for source in sources:
        value = _value(source, asked)
        digest.update(b"%d:%b," % (-1, b"") if value is None else b"%d:%b," % (len(value), value))
    return digest.digest()


def new_run(now: float, chance: bytes, credential: bytes, secret: bytes) -> str:
    """A new run's id, for this client."""
    plain = run_id(now, chance)
    return f"{plain}-{_mark(plain, credential, secret)}" if credential else plain


def belongs(run: str, credential: bytes, secret: bytes) -> bool:
    """Whether a run was made for the client with this credential."""
    if _RUN.fullmatch(run) is None:
        return False
    plain, _, mark = run.partition("-")
    return mark == (_mark(plain, credential, secret) if credential else "")


def key_digest(tenant: str, row: str, key: str, credential: bytes) -> bytes:
    """A client's key as the database knows it: another row's or another client's is another one."""
    digest = blake2b(digest_size=32)
    for part in (tenant.encode(), row.encode(), key.encode("utf-8", "surrogatepass"), credential):
        digest.update(b"%d:%b," % (len(part), part))
    return digest.digest()


def _mark(plain: str, credential: bytes, secret: bytes) -> str:
    return blake2b(plain.encode() + credential, key=secret, digest_size=_MARK_BYTES).hexdigest()


def _value(source: Source, asked: Asked) -> bytes | None:
    if source.place == "header":  # a token may be longer than a key, and hold what no key does
        values = [value for name, value in asked.headers if name == source.name.encode()]
        return b"\n".join(values) if values else None
    value = asked.find(source)
    return None if value is None else value.encode("utf-8", "surrogatepass")
