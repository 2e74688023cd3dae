"""The JSON bodies of requests for runs: checked against a model, or refused by an InvalidRequest that changes nothing.

Knows nothing of the database. `input` and `lostEvent` go on as they are written, and may be large: they are judged in
pieces, and never made into objects. All else becomes text in the database, which half of a surrogate pair is not.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, Final, TypeVar

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from gateway.protocol import json_body
from gateway.protocol.content_type import CONTENT_TYPE, MAX_CONTENT_TYPE
from gateway.protocol.errors import BatchTooLarge, InvalidJson, InvalidRequest
from gateway.protocol.fields import MAX_LEASE
from gateway.protocol.target import MAX_RUN_ID, check_path

MAX_FIELDS: Final = 64  # in a body; more than there are names
MAX_MEANT: Final = 128 << 10  # bytes of all fields but `input` and `lostEvent`
CANONICAL: Final = 64 << 10  # bytes of a body up to which its spaces and the order of its names do not matter
MAX_REASON: Final = 1024  # characters
MAX_METADATA: Final = 32  # names
MAX_NAME: Final = 256  # characters
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


def _few(value: object) -> object:
    if isinstance(value, dict) and len(value) > MAX_METADATA:  # here, before each of them is looked at
        raise ValueError(f"must have at most {MAX_METADATA} names")
    return value


_SCALAR: Final = {
    "anyOf": [
        {"type": "string", "maxLength": MAX_VALUE, "pattern": _PRINTABLE},
        {"type": "number", "exclusiveMinimum": -MAX_NUMBER, "exclusiveMaximum": MAX_NUMBER},
        {"type": "boolean"},
    ]
}
Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME, pattern=_PRINTABLE)]
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
    metadata: Annotated[dict[Name, Value], Field(max_length=MAX_METADATA), BeforeValidator(_few)] | None = Field(
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
        False, description="Whether the token that comes back may also cancel the run, as its maker must be able to."
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
    """A run to be made. `digest` is that of the whole request: the same request again is no conflict.

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
    """The body of `POST /runs`. `id` None: any id. `control`: the run's token shall be for control, too."""

    id: str | None
    control: bool
    run: NewRun


def create_in_pieces(body: bytes) -> Generator[None, None, RunRequest]:
    """The body of `POST /runs`. Gives way now and then. Raises InvalidRequest."""
    written = yield from _members(body)
    values = {name: _meant(name, text) for name, text in _small(written).items()}
    asked = _checked(CreateRun, values)
    run = NewRun(
        digest=sha256(_canonical(body) or _as_written(written)).digest(),
        content_type=asked.content_type,
        ttl=asked.ttl,
        lease=asked.lease,
        workflow_name=asked.workflow_name,
        input=written["input"].decode() if "input" in written else None,
        metadata=None if asked.metadata is None else orjson.dumps(asked.metadata).decode(),
        lost_event=None if asked.lost_event is None else written["lostEvent"].decode(),
    )
    if asked.id:
        check_path(f"runs/{asked.id}")  # `.` and `..`
    return RunRequest(asked.id or None, asked.control, run)


def parse_create(body: bytes) -> RunRequest:
    """Parses the body of `POST /runs` without giving way."""
    return json_body.at_once(create_in_pieces(body))


def parse_cancel(body: bytes) -> str | None:
    """The reason, if one is given. Raises InvalidRequest."""
    return parse(CancelRun, body).reason


def parse(model: type[_Asked], body: bytes) -> _Asked:
    """A small body as what it asks for; an empty one asks for nothing in particular. Raises InvalidRequest."""
    written = json_body.at_once(_members(body))
    return _checked(model, {name: _meant(name, text) for name, text in written.items()})


def _members(body: bytes) -> Generator[None, None, dict[str, bytes]]:
    try:
        return (yield from json_body.members_in_pieces(body or b"{}", MAX_FIELDS))
    except InvalidJson as error:
        raise InvalidRequest(f"The body must be a JSON object. {error.details}") from None
    except BatchTooLarge:
        raise InvalidRequest(f"The body has more than {MAX_FIELDS} fields.") from None


def _small(written: dict[str, bytes]) -> dict[str, bytes]:
    """The fields that are looked into, and stand-ins for those that are not."""
    meant = written | {name: b"null" for name in ("input",) if name in written}
    lost = meant.get("lostEvent", b"null")
    if lost != b"null":
        meant["lostEvent"] = b"{}" if lost.startswith(b"{") else b"[]"
    if sum(map(len, meant.values())) > MAX_MEANT:
        raise InvalidRequest(f"All fields but input and lostEvent may have {MAX_MEANT} bytes.")
    return meant


def _meant(name: str, text: bytes) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # it was judged, so there is nothing else that orjson does not take
        raise InvalidRequest(f"{name[:MAX_NAME]} must not hold half of a surrogate pair") from None


def _canonical(body: bytes) -> bytes | None:
    """A body in one form, however it is spelled; None: it is large, or cannot be had in one.

    Without `control`, which is about the token in the answer: a repetition may ask for another one.
    """
    if len(body) > CANONICAL:
        return None
    try:
        about_the_run = {name: value for name, value in orjson.loads(body or b"{}").items() if name != "control"}
        return orjson.dumps(about_the_run, option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # half of a pair; more than 254 levels of nesting
        return None


def _as_written(written: dict[str, bytes]) -> bytes:
    return b",".join(b"%b:%b" % (name.encode(), written[name]) for name in sorted(written) if name != "control")


def _checked(model: type[_Asked], values: dict[str, object]) -> _Asked:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InvalidRequest("; ".join(map(_explain, error.errors())) + ".") from None


def _explain(fault: ErrorDetails) -> str:
    match fault["type"]:
        case "extra_forbidden":
            words = "is not known here"
        case "string_pattern_mismatch":
            words = _IN_WORDS[fault["ctx"]["pattern"]]
        case _:
            words = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{'.'.join(str(part)[:MAX_NAME] for part in fault['loc'])} {words}"
