"""Events as they are sent: compact JSON on one line, made where `emit` stands: what is no JSON is refused there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time
from enum import Enum
from typing import Any
from uuid import UUID

import orjson

Default = Callable[[Any], Any]
"""Turns what is no JSON into what is, or raises TypeError."""


def text_of(value: object, default: Default | None = None) -> bytes:
    """A value as JSON. It may hold what orjson takes, datetime, UUID, dataclasses and enums, and pydantic's models.

    Raises TypeError for what is no JSON, ValueError for NaN and Infinity.
    """
    try:
        text = orjson.dumps(value, default or _plain)
    except TypeError:  # a large integer, a key that is no text, half a surrogate pair: all of it is JSON
        return _by_json(value, default)
    # orjson writes null for NaN: no reader could tell it from what was meant.
    return _by_json(value, default) if b"null" in text and _has_nan(value, default) else text


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):  # pydantic's, and whatever is like it
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is not JSON")


def _by_json(value: object, default: Default | None) -> bytes:
    known = _known(default)
    text = json.dumps(value, default=known, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which is JSON only as an escape
        return json.dumps(value, default=known, separators=(",", ":"), allow_nan=False).encode()


def _has_nan(value: object, default: Default | None) -> bool:
    try:
        json.dumps(value, default=_known(default), allow_nan=False)
    except ValueError:
        return True
    return False


def _known(default: Default | None) -> Default:
    """Encodes for `json` what orjson knows by itself."""

    def known(value: Any) -> Any:
        if isinstance(value, datetime | date | time):
            return value.isoformat()
        if isinstance(value, UUID):
            return str(value)
        if isinstance(value, Enum):
            return value.value
        if is_dataclass(value) and not isinstance(value, type):
            return {field.name: getattr(value, field.name) for field in fields(value)}
        return (default or _plain)(value)

    return known


def mapping(name: str, value: object) -> Mapping[str, Any]:
    """A value that is a mapping. Raises TypeError."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} is a dict, not {value!r}")
    return value
