"""The rules of §6 and §7 as pure functions: what a request asks for, or a Refusal that changes nothing.

As in the reference server, an optional field of the wrong type counts as left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from gateway.protocol.offset import MAX_POSITION, parse_position
from gateway.protocol.target import CONTROL, MAX_PATH, MAX_PATH_BYTES, within
from gateway.subscriptions.errors import Code, Refusal, invalid
from gateway.subscriptions.records import Type
from gateway.subscriptions.targets import check_webhook_url

DEFAULT_LEASE_TTL: Final = 30_000  # milliseconds
LEASE_TTLS: Final = (1_000, 600_000)  # milliseconds, least and most
MAX_ID: Final = 256  # characters
MAX_STREAMS: Final = 10_000  # named in one request
LISTED: Final = 100  # on a page, unless more or less are asked for
MAX_LISTED: Final = 1000
MAX_DESCRIPTION: Final = 4096  # characters
MAX_RETRY_DELAY: Final = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Wanted:
    """A subscription as its creator asks for it, normalised."""

    type: Type
    pattern: str | None
    streams: tuple[str, ...]
    webhook_url: str | None
    wake_stream: str | None
    lease_ttl_ms: int
    description: str | None

    def within(self, tenant: str) -> Wanted:
        """The request with its paths as they are stored."""
        streams = tuple(within(tenant, path) for path in self.streams)
        return replace(self, streams=streams, wake_stream=self.wake_stream and within(tenant, self.wake_stream))

    @property
    def config_hash(self) -> str:
        """A digest that is equal for requests of equal meaning, however they spell it (§6.2)."""
        canonical = {name: getattr(self, name) for name in self.__slots__}
        return hashlib.sha256(orjson.dumps(canonical, option=orjson.OPT_SORT_KEYS)).hexdigest()


@dataclass(frozen=True, slots=True)
class Ack:
    """A cursor to be moved. `position` None: the offset is `-1`, or no offset at all."""

    path: str
    position: int | None


@dataclass(frozen=True, slots=True)
class Settlement:
    """The body of a callback, an ack or a release. `generation` and `wake_id` None match no wake."""

    generation: int | None
    wake_id: str | None
    acks: tuple[Ack, ...]
    done: bool

    def within(self, tenant: str) -> Settlement:
        """The settlement with its paths as they are stored."""
        return replace(self, acks=tuple(replace(ack, path=within(tenant, ack.path)) for ack in self.acks))


def parse_page(query: Mapping[str, str]) -> tuple[int, str]:
    """Parses a page: how many subscriptions it lists, and the id that it begins behind, or "". Raises Refusal."""
    limit, cursor = query.get("limit", str(LISTED)), query.get("cursor")
    if not (limit.isascii() and limit.isdecimal() and len(limit) <= 4 and 1 <= int(limit) <= MAX_LISTED):
        raise invalid(f"limit must be 1 to {MAX_LISTED}")
    return int(limit), "" if cursor is None else parse_id(cursor)


def parse_id(text: str) -> str:
    """A subscription's id. Raises Refusal for what cannot be one."""
    return _checked(text, "the subscription's id", MAX_ID)


def parse_path(text: str) -> str:
    """A stream's path, normalised. Raises Refusal for what cannot be one."""
    return _checked(normalise(text), "the stream's path", MAX_PATH)


def parse_object(body: object) -> dict[str, Any]:
    """A body that must be a JSON object."""
    if not isinstance(body, dict):
        raise invalid("Request body must be a JSON object")
    return body


def parse_create(body: object, *, allow_local_webhooks: bool) -> Wanted:
    """The body of a PUT (§6.2)."""
    body = parse_object(body)
    kind = body.get("type")
    if kind not in ("webhook", "pull-wake"):
        raise invalid('type must be "webhook" or "pull-wake"')
    pattern = _optional_path(body, "pattern")
    named = body.get("streams")
    streams = _paths(named, "streams must contain only strings") if isinstance(named, list) else ()
    if pattern is None and not streams:
        raise invalid("At least one of pattern or streams is required")
    lease_ttl_ms = _lease_ttl(body.get("lease_ttl_ms", DEFAULT_LEASE_TTL))
    webhook_url = _webhook_url(body.get("webhook"), allow_local_webhooks) if kind == "webhook" else None
    wake_stream = _optional_path(body, "wake_stream")
    if kind == "pull-wake" and wake_stream is None:
        raise invalid("pull-wake subscriptions require wake_stream")
    description = body.get("description")
    if not isinstance(description, str):
        description = None
    elif len(description) > MAX_DESCRIPTION or "\0" in description:
        raise invalid(f"description must be at most {MAX_DESCRIPTION} characters, without NUL")
    return Wanted(kind, pattern, streams, webhook_url, wake_stream, lease_ttl_ms, description)


def parse_streams(body: object) -> tuple[str, ...]:
    """The body of a POST to `streams` (§6.4)."""
    message = "streams must be a non-empty string array"
    named = body.get("streams") if isinstance(body, dict) else None
    if not isinstance(named, list):
        raise invalid(message)
    return _paths(named, message)


def parse_worker(body: object) -> str:
    """The body of a claim (§7.2)."""
    worker = body.get("worker") if isinstance(body, dict) else None
    if not isinstance(worker, str) or not worker:
        raise invalid("worker must be a non-empty string")
    return _checked(worker, "worker", MAX_ID)


def parse_settlement(body: object) -> Settlement:
    """Parses the body of a callback or an ack (§7.1, §7.2), and of a release, whose acks are not read."""
    body = parse_object(body)
    generation = body.get("generation")
    if isinstance(generation, bool) or not isinstance(generation, int) or not 0 <= generation <= MAX_POSITION:
        generation = None
    wake_id = body.get("wake_id")
    if not isinstance(wake_id, str) or CONTROL.search(wake_id):
        wake_id = None
    acks = [] if body.get("acks") is None else body["acks"]
    if not isinstance(acks, list) or len(acks) > MAX_STREAMS:
        raise invalid(f"acks must be an array of at most {MAX_STREAMS} objects")
    return Settlement(generation, wake_id, tuple(map(_ack, acks)), body.get("done") is True)


def parse_bearer(header: str | None) -> str:
    """The token out of an Authorization header."""
    if header is None or not header.startswith("Bearer ") or len(header) == len("Bearer "):
        raise Refusal(Code.TOKEN_INVALID, "Missing or malformed Authorization header")
    return header.removeprefix("Bearer ")


def retry_delay(attempt: int, jitter: float) -> float:
    """Seconds to wait after the failed attempt of that number, from 1 on (§7.1). `jitter` is from -1 to 1."""
    delay = min(2.0 ** min(attempt - 1, 10), MAX_RETRY_DELAY)
    return delay * (1 + 0.2 * jitter)


def normalise(path: str) -> str:
    """A stream-root-relative path without slashes around it."""
    return path.strip("/")


def _optional_path(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        return None
    return _checked(normalise(value), name, MAX_PATH)


def _paths(values: list[Any], message: str) -> tuple[str, ...]:
    if len(values) > MAX_STREAMS:
        raise invalid(f"streams must be at most {MAX_STREAMS}")
    if not all(isinstance(value, str) and value for value in values):
        raise invalid(message)
    return tuple(sorted({_checked(normalise(value), "a stream's path", MAX_PATH) for value in values}))


def _lease_ttl(value: object) -> int:
    low, high = LEASE_TTLS
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON has one kind of number
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise invalid(f"lease_ttl_ms must be an integer from {low} to {high}")
    return value


def _webhook_url(webhook: object, allow_local: bool) -> str:
    url = webhook.get("url") if isinstance(webhook, dict) else None
    if not isinstance(url, str) or not url:
        raise invalid("webhook subscriptions require webhook.url")
    return check_webhook_url(url, allow_local=allow_local)


def _ack(value: object) -> Ack:
    if not isinstance(value, dict):
        raise invalid("acks must be an array of objects")
    path = value.get("path") if value.get("stream") is None else value["stream"]
    offset = value.get("offset")
    if not isinstance(path, str) or not isinstance(offset, str):
        raise invalid("an ack must have a stream and an offset")
    return Ack(_checked(normalise(path), "an ack's stream", MAX_PATH), parse_position(offset.encode()))


def _checked(text: str, what: str, limit: int) -> str:
    if not 0 < len(text) <= limit or CONTROL.search(text):
        raise invalid(f"{what} must be 1 to {limit} characters, none of them a control character")
    if len(text.encode()) > MAX_PATH_BYTES:
        raise invalid(f"{what} must be at most {MAX_PATH_BYTES} bytes")
    return text
