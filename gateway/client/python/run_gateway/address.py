"""URLs of what a person types for a run or a stream."""

from __future__ import annotations

from urllib.parse import quote


def stream_url(base: str, name: str) -> str:
    """`17` -> `<base>/runs/17`; `/v1/stream/a/b` (any path) -> `<base>/v1/stream/a/b`; a whole address stays."""
    if name.startswith(("http://", "https://")):
        return name
    base = base.rstrip("/")
    if name.startswith("/"):
        return base + quote(name, safe="/%:@!$&'()*+,;=~")
    return f"{base}/runs/{quote(name, safe=':@')}"
