"""The conversation that a request of a Flue 2.x app is about, found as the app finds it: two paths that the app takes
for one conversation are one here, or it would have two owners.

Pure. A path goes there through three hands: @hono/node-server 2.0.3 (`buildUrl`) makes a URL of it, as the WHATWG's URL
standard has it; Hono 4.12 (`getPath`) decodes what no reserved character stands for, and splits it at the slashes; its
`param` decodes what is left of a segment.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

_ESCAPES: Final = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_RESERVED: Final = frozenset(";/?:@&=+$,#")  # ECMA-262, decodeURI: what it leaves escaped
_PLAIN: Final = re.compile(r"[!$&-;=@-Z\[\]_a-z~]*")  # what a URL leaves as it is, and nothing decodes
_ESCAPED: Final = re.compile(r'[\x00-\x20"<>`{}\x7f-\xff]+')  # what a URL's path does not leave as it is, in Node 22
_END: Final = re.compile(r"[?#]")
_DOT: Final = (".", "%2e")
_DOTS: Final = ("..", ".%2e", "%2e.", "%2e%2e")


def id_of(mount: str, raw_path: bytes) -> str | None:
    """The id of the conversation; None: the path is none of an agent that is mounted at `mount`.

    Also for what lies below a conversation, such as `/abort`. `raw_path`: as it came, escaped.
    """
    path = _END.split(raw_path.decode("latin-1"), maxsplit=1)[0]
    if "/." in path or not _PLAIN.fullmatch(path):
        url = _ESCAPED.sub(lambda found: quote(found[0]), _resolved(path))
        path = _decoded(url.replace("%25", "%2525"), _RESERVED)
    if not path.startswith(f"{mount}/"):
        return None
    segment = path[len(mount) + 1 :].partition("/")[0]
    found = _decoded(segment, frozenset()) if "%" in segment else segment
    return found if found and "\0" not in found else None  # Postgres has no such text: the app refuses it


def _resolved(path: str) -> str:
    """Without the segments `.` and `..`, also where they are escaped (https://url.spec.whatwg.org/#path-state)."""
    *front, last = path.replace("\\", "/").split("/")[1:]
    kept: list[str] = []
    for segment in front:
        _step(kept, segment)
    if not _step(kept, last):
        kept.append("")
    return "/" + "/".join(kept)


def _step(kept: list[str], segment: str) -> bool:
    """Takes one segment more; whether it is one that stays."""
    lower = segment.lower()
    if lower in _DOTS:
        del kept[-1:]
        return False
    if lower in _DOT:
        return False
    kept.append(segment)
    return True


def _decoded(text: str, kept: frozenset[str]) -> str:
    """Hono's tryDecode: escapes that are no UTF-8 stay as they are, each run of them for itself."""
    return _ESCAPES.sub(lambda run: _run(run[0], kept), text)


def _run(escapes: str, kept: frozenset[str]) -> str:
    try:
        decoded = bytes.fromhex(escapes.replace("%", "")).decode()
    except UnicodeDecodeError:
        return escapes
    if kept.isdisjoint(decoded):
        return decoded
    at = 0
    found = []
    for character in decoded:
        end = at + 3 * len(character.encode())
        found.append(escapes[at:end] if character in kept else character)
        at = end
    return "".join(found)
