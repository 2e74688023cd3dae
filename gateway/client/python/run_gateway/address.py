"""URLs of what a person types for a run or a stream."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit


class Place(NamedTuple):
    """A run or another stream, and the gateway that has it. `stream`: as `POST /v1/appends` names it, `runs/17`."""

    base: str
    stream: str


def stream_url(base: str, name: str) -> str:
    """`17` -> `<base>/runs/17`; `/v1/stream/a/b` (any path) -> `<base>/v1/stream/a/b`; a whole address stays."""
    if name.startswith(("http://", "https://")):
        return name
    base = base.rstrip("/")
    if name.startswith("/"):
        return base + quote(name, safe="/%:@!$&'()*+,;=~")
    return f"{base}/runs/{quote(name, safe=':@')}"


def checked(url: object) -> str:
    """An address, as it is. Raises TypeError, ValueError."""
    if not isinstance(url, str):
        raise TypeError(f"an address is a str such as 'http://127.0.0.1:8080/runs/17', not {type(url).__name__}")
    if not url.startswith(("http://", "https://")) or not urlsplit(url).hostname:
        raise ValueError(f"{url!r} is no address: it begins with http:// or https:// and a host")
    return url


def gateway_of(url: str) -> str:
    """The address of the gateway of `http://host`, `http://host/runs` or `http://host/runs/17`."""
    place = place_of(url)
    return checked(url).rstrip("/").removesuffix("/runs") if place is None else place.base


def place_of(url: str) -> Place | None:
    """The place of a stream's address; None if it is of no stream."""
    parts = urlsplit(checked(url))
    for mark, prefix in (("/v1/stream/", ""), ("/runs/", "runs/")):
        before, found, name = parts.path.partition(mark)
        if found and name:
            return Place(f"{parts.scheme}://{parts.netloc}{before}", prefix + unquote(name))
    return None
