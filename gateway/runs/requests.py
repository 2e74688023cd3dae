"""Requests for runs: bodies and queries become values, or an InvalidRequest that changes nothing.

Knows nothing of the database. JSON that a client sent is passed on as JSON text: what it means is the client's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import parse_qsl

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from gateway.protocol.errors import InvalidRequest
from gateway.protocol.fields import MAX_LEASE
from gateway.protocol.record import Status
from gateway.protocol.run_list import decode_cursor, encode_cursor, parse_limit, parse_status
from gateway.protocol.stream_path import MAX_RUN_ID

MAX_WAIT: Final = 300.0  # seconds that a request may wait for a run's end
MAX_REASON: Final = 1024  # characters
MAX_METADATA: Final = 32  # names

MAX_VALUE: Final = 1024  # characters of a string in metadata
MAX_NUMBER: Final = 2**53  # a number in metadata is smaller: every client reads those exactly

_PRINTABLE: Final = r"^[^\x00-\x1f\x7f-\x9f]*$"
_ID: Final = r"^[^/\x00-\x1f\x7f-\x9f]+$"
_MEDIA_TYPE: Final = r"^[\w-]+/[\w-]+[\x20-\x7e]*$"
_NO_NUL: Final = r"^[^\x00]*$"
_IN_WORDS: Final = {
    _PRINTABLE: "must not hold control characters",
    _ID: "must not hold a slash or control characters",
    _MEDIA_TYPE: "must be a media type, such as application/json",
    _NO_NUL: "must not hold a NUL",
}

Scalar = str | int | float | bool


def _scalar(value: object) -> Scalar:
    # By hand: what a union of types says is wrong is as many lines as it has members.
    if isinstance(value, str) and len(value) <= MAX_VALUE and re.fullmatch(_PRINTABLE, value):
        return value
    if isinstance(value, bool) or (isinstance(value, int | float) and abs(value) < MAX_NUMBER):
        return value
    raise ValueError(
        f"must be a string of at most {MAX_VALUE} characters, none of them a control character,"
        " or a number below 2^53, or a boolean"
    )


_SCALAR: Final = {
    "anyOf": [
        {"type": "string", "maxLength": MAX_VALUE, "pattern": _PRINTABLE},
        {"type": "number", "exclusiveMinimum": -MAX_NUMBER, "exclusiveMaximum": MAX_NUMBER},
        {"type": "boolean"},
    ]
}
Name = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=_PRINTABLE)]
Value = Annotated[Scalar, PlainValidator(_scalar), WithJsonSchema(_SCALAR)]


class Body(BaseModel):
    """A request's body: nothing in it that is not known, and nothing of another type."""

    model_config = ConfigDict(strict=True, extra="forbid", alias_generator=to_camel)


_Asked = TypeVar("_Asked", bound=Body)


class CreateRun(Body):
    """The body of `POST /runs`. Everything may be left out."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=MAX_RUN_ID, pattern=_ID)] = Field(
        "", description="The run's id, without a slash; otherwise `run_` and a ULID.", examples=["run_1"]
    )
    workflow_name: Name | None = Field(None, description="What kind of run it is; runs can be listed by it.")
    input: Any = Field(None, description="What the run was started with: any JSON, shown in its record.")
    metadata: Annotated[dict[Name, Value], Field(max_length=MAX_METADATA)] | None = Field(
        None,
        description="Strings, numbers and booleans by name; runs can be listed by them.",
        examples=[{"user": "u_1", "attempt": 2}],
    )
    lease: Annotated[int, Field(ge=1, le=MAX_LEASE)] | None = Field(
        None, description="Seconds within which the producer promises a sign of life; else the run is ended."
    )
    lost_event: dict[str, Any] | None = Field(
        None, description="The last event, should the producer be lost; otherwise a `run_end` that says so."
    )
    ttl: Annotated[int, Field(ge=0, lt=10**10)] | None = Field(
        None, description="Seconds that the run's stream lives after its last read or write (Stream-TTL)."
    )
    control: bool = Field(
        False, description="Whether the token that comes back may also cancel the run; whoever asks must be able to."
    )
    content_type: Annotated[str, StringConstraints(pattern=_MEDIA_TYPE)] = Field(
        "application/json", description="The stream's content type."
    )


class CancelRun(Body):
    """The body of `POST /runs/<id>/cancel`. May be left out."""

    reason: Annotated[str, StringConstraints(max_length=MAX_REASON, pattern=_NO_NUL)] | None = Field(
        None, description="Why, for the producer."
    )


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be made. `digest` is that of the whole request: the same one again is no conflict."""

    digest: bytes
    content_type: str
    ttl: int | None
    lease: int | None
    workflow_name: str | None
    input: str | None
    metadata: str | None
    lost_event: str | None


@dataclass(frozen=True, slots=True)
class ListRequest:
    """`GET /runs`. `metadata`: of each name that is asked for, the JSON objects of which the record's holds one.
    `before`: the last run of the page before.
    """

    status: Status | None
    workflow_name: str | None
    metadata: list[list[str]]
    limit: int
    before: int | None


def parse_create(body: bytes) -> tuple[str | None, bool, NewRun]:
    """The id that was asked for, whether the token shall be for control too, and the run. Raises InvalidRequest."""
    asked = parse(CreateRun, body)
    # The token is of the answer, and no part of the run.
    run = {name: value for name, value in orjson.loads(body or b"{}").items() if name != "control"}
    digest = sha256(orjson.dumps(run, option=orjson.OPT_SORT_KEYS)).digest()
    return (
        asked.id or None,
        asked.control,
        NewRun(
            digest,
            asked.content_type,
            asked.ttl,
            asked.lease,
            asked.workflow_name,
            _text(asked.input) if "input" in asked.model_fields_set else None,
            None if asked.metadata is None else _text(asked.metadata),
            None if asked.lost_event is None else _text(asked.lost_event),
        ),
    )


def parse_cancel(body: bytes) -> str | None:
    """The reason, if one is given. Raises InvalidRequest."""
    return parse(CancelRun, body).reason


def parse_meta(query: bytes) -> float | None:
    """How many seconds a GET of a run's record waits; None: it asks for the stream. Raises InvalidRequest."""
    params = _query(query.decode("latin-1"))
    if "meta" not in params:
        return None
    try:
        wait = float(params.get("wait", "0"))
    except ValueError:
        wait = -1
    if not 0 <= wait <= MAX_WAIT:
        raise InvalidRequest(f"wait must be a number of seconds from 0 to {MAX_WAIT:g}.")
    return wait


def parse_list(query: str) -> ListRequest:
    """`?status=&workflowName=&metadata.k=v&limit=&cursor=`. Raises InvalidRequest, for what it does not know too."""
    params = _query(query)
    metadata = [
        [_text({name.removeprefix("metadata."): meant}) for meant in _meant(params.pop(name))]
        for name in list(params)
        if name.startswith("metadata.")
    ]
    request = ListRequest(
        parse_status(params.pop("status", None)),
        params.pop("workflowName", None),
        metadata,
        parse_limit(params.pop("limit", None)),
        _before(params.pop("cursor", None)),
    )
    if params:
        raise InvalidRequest(f"Runs cannot be listed by {', '.join(sorted(params))}.")
    if "\0" in query or "%00" in query:
        raise InvalidRequest("The query holds a NUL.")
    return request


def _meant(text: str) -> list[Scalar]:
    """What a text in a query may stand for: itself, and the number or boolean that it reads as."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return [text]
    return [text, value] if isinstance(value, int | float) and abs(value) < MAX_NUMBER else [text]


def format_cursor(stream: int) -> str:
    """Where a page of a list ended, for the client to send back as it is."""
    return encode_cursor(b"%d" % stream)


def parse(model: type[_Asked], body: bytes) -> _Asked:
    """A body as what it asks for; an empty one asks for nothing in particular. Raises InvalidRequest."""
    try:
        asked = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError:
        asked = None
    if not isinstance(asked, dict):
        raise InvalidRequest("The body must be a JSON object.")
    try:
        return model.model_validate(asked)
    except ValidationError as error:
        raise InvalidRequest("; ".join(map(_explain, error.errors()))) from None


def _explain(fault: ErrorDetails) -> str:
    match fault["type"]:
        case "extra_forbidden":
            words = "is not known here"
        case "string_pattern_mismatch":
            words = _IN_WORDS[fault["ctx"]["pattern"]]
        case _:
            words = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{'.'.join(map(str, fault['loc']))} {words}"


def _text(value: object) -> str:
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        raise InvalidRequest("The body is nested too deep.") from None


def _query(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=64, errors="strict")
    except ValueError:
        raise InvalidRequest("The query string cannot be read.") from None
    params = dict(pairs)
    if len(params) < len(pairs):
        raise InvalidRequest("A query parameter is there more than once.")
    return params


def _before(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    number = decode_cursor(cursor)
    if not number.isdigit() or len(number) > 18:
        raise InvalidRequest("cursor is none that was given out.")
    return int(number)
