"""The JSON bodies of requests for runs: checked against a model, or refused by an InvalidRequest that changes nothing.

Knows nothing of the database. `input` and `metadata` go on as JSON text: the gateway does not interpret them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, Final, TypeVar

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

from gateway.protocol.content_type import CONTENT_TYPE, MAX_CONTENT_TYPE
from gateway.protocol.errors import InvalidRequest
from gateway.protocol.fields import MAX_LEASE
from gateway.protocol.target import MAX_RUN_ID, check_path

MAX_REASON: Final = 1024  # characters
MAX_METADATA: Final = 32  # names
MAX_VALUE: Final = 1024  # characters of a string in metadata
MAX_NUMBER: Final = 2**53  # a number in metadata is smaller: every client reads those exactly

_PRINTABLE: Final = r"^[^\x00-\x1f\x7f-\x9f]*$"
_ID: Final = r"^[^/\x00-\x1f\x7f-\x9f]+$"
_NO_NUL: Final = r"^[^\x00]*$"
_IN_WORDS: Final = {
    _PRINTABLE: "must not hold control characters",
    _ID: "must not hold a slash or control characters",
    CONTENT_TYPE: "must be a media type, such as application/json",
    _NO_NUL: "must not hold a NUL",
}

Scalar = str | int | float | bool


def _scalar(value: object) -> Scalar:
    # By hand, since pydantic's error for a union of types has a line for each of them.
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
    content_type: Annotated[str, StringConstraints(max_length=MAX_CONTENT_TYPE, pattern=CONTENT_TYPE)] = Field(
        "application/json", description="The stream's content type."
    )


class CancelRun(Body):
    """The body of `POST /runs/<id>/cancel`. May be left out."""

    reason: Annotated[str, StringConstraints(max_length=MAX_REASON, pattern=_NO_NUL)] | None = Field(
        None, description="Why, for the producer."
    )


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be made. `digest` is that of everything that was asked for: the same request again is no conflict.

    `input`, `metadata` and `lost_event` are JSON.
    """

    digest: bytes
    content_type: str
    ttl: int | None
    lease: int | None
    workflow_name: str | None
    input: str | None
    metadata: str | None
    lost_event: str | None


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What `POST /runs` asks for. `id` None: any id. `control`: whether the run's token shall be for control, too."""

    id: str | None
    control: bool
    run: NewRun


def parse_create(body: bytes) -> RunRequest:
    """The body of `POST /runs`. Raises InvalidRequest."""
    asked = parse(CreateRun, body)
    # `control` is about the token in the answer: a repetition may ask for another one.
    about_the_run = {name: value for name, value in orjson.loads(body or b"{}").items() if name != "control"}
    run = NewRun(
        digest=sha256(_text(about_the_run, orjson.OPT_SORT_KEYS).encode()).digest(),
        content_type=asked.content_type,
        ttl=asked.ttl,
        lease=asked.lease,
        workflow_name=asked.workflow_name,
        input=_text(asked.input) if "input" in asked.model_fields_set else None,
        metadata=None if asked.metadata is None else _text(asked.metadata),
        lost_event=None if asked.lost_event is None else _text(asked.lost_event),
    )
    if asked.id:
        check_path(f"runs/{asked.id}")  # `.` and `..`
    return RunRequest(asked.id or None, asked.control, run)


def parse_cancel(body: bytes) -> str | None:
    """The reason, if one is given. Raises InvalidRequest."""
    return parse(CancelRun, body).reason


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


def _text(value: object, option: int = 0) -> str:
    try:
        return orjson.dumps(value, option=option).decode()
    except orjson.JSONEncodeError:
        raise InvalidRequest("The body is nested too deep.") from None
