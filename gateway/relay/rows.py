"""A row of the relay: which requests are recorded, how their clients come back, and how a recording ends for them.

Pure. A row is written in TOML, `[[relay]]`; its fields are those of Row. What cannot be meant is a BadRow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from gateway.relay.cursors import Cursor
from gateway.relay.errors import BadRow
from gateway.relay.framing import Kind, ended
from gateway.relay.keys import Asked, Source, field
from gateway.relay.known import Last
from gateway.relay.patterns import Pattern

MAX_NAME: Final = 256  # characters: a row's name is its runs' workflow name
NEVER_REPLAYED: Final = frozenset(
    ("set-cookie", "content-length", "transfer-encoding", "connection", "content-encoding", "date", "trailer")
)
_OURS: Final = "run"  # the placeholder that stands for the run's id
_RESERVED: Final = frozenset((_OURS, "key"))

_Parsed = TypeVar("_Parsed")


def _parsed(parse: Callable[[str], _Parsed], kind: type[_Parsed]) -> BeforeValidator:
    def read(value: object) -> object:
        if isinstance(value, kind):
            return value
        if not isinstance(value, str):
            raise ValueError("must be a string")
        return parse(value)

    return BeforeValidator(read)


def _several(value: object) -> object:
    return [value] if isinstance(value, str) else value


APattern = Annotated[Pattern, _parsed(Pattern.parse, Pattern)]
ASource = Annotated[Source, _parsed(Source.parse, Source)]
ALast = Annotated[Last, _parsed(Last.parse, Last)]
ACursor = Annotated[Cursor, _parsed(Cursor.parse, Cursor)]
Several = BeforeValidator(_several)
Seconds = Annotated[float, Field(gt=0, le=30 * 86_400, allow_inf_nan=False)]
Scalar = bool | int | float | str


class Rejoin(BaseModel):
    """The request by which any Machine asks an upstream for the rest of an answer."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, arbitrary_types_allowed=True)

    ask: APattern
    """The request for the rest, with what the row's own patterns, its key and its values have found."""
    by: ASource
    """The header or the field of the query that says which frame was the last."""
    last: ALast = Last("id")
    """What it says: the upstream's own `id` of a frame, the number of `frames`, or a field such as `frame:number`."""
    start: str | None = None
    """What it says for the start; without, it is left out."""
    send: Annotated[tuple[str, ...], Several, Field(strict=False)] = ()
    """Headers of the POST that are sent again. They are kept in the database until the run has ended."""

    @field_validator("send", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        values = _several(value)
        return [str(name).lower() for name in values] if isinstance(values, list | tuple) else values

    @field_validator("ask")
    @classmethod
    def _asks(cls, value: Pattern) -> Pattern:
        if value.method != "GET":
            raise ValueError("must be a GET")
        return value

    @field_validator("by")
    @classmethod
    def _said(cls, value: Source) -> Source:
        if value.place not in ("header", "query"):
            raise ValueError("must be a header or a field of the query")
        return value


class Row(BaseModel):
    """A row, as it is written, with its texts read. Seconds are seconds; names of headers are in lower case."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, arbitrary_types_allowed=True)

    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
    """What the row is called, and the workflow name of its runs."""
    start: Annotated[tuple[APattern, ...], Several, Field(min_length=1, strict=False)]
    """The POSTs, or the GETs of an EventSource, whose answers are recorded."""
    when: dict[str, Scalar] = {}
    """Fields that the body has to have, with their values."""
    key: ASource | None = None
    """Where the name is under which clients come back."""
    keyless: bool = False
    """Whether a POST without its key is recorded too. Its key is the run's id, which `answer` can tell its client."""
    attach: bool = False
    """Whether a POST with a known key is given that run's answer, and starts nothing."""
    frames: Kind = "sse"
    """What the answer is: `sse`, text/event-stream; or `ndjson`, a JSON text on each line."""
    ids: bool = False
    """Whether each frame with data has an id on the wire, which a client sends back in Last-Event-ID. A line of NDJSON
    is in an envelope then, `{"id":…,"chunk":…}`."""
    resume: Annotated[tuple[APattern, ...], Several, Field(strict=False)] = ()
    """The requests by which clients come back."""
    cursor: ACursor | None = None
    """How a client says by a number how far it has come; without, it is given everything from the start."""
    idle: Literal[204, 404, "pass"] = "pass"
    """What a client that comes back gets where there is no run: a status, or the upstream's own answer."""
    grace: Seconds | None = None
    """Seconds after its end in which a run can still be come back to by its key; without, as long as it is kept."""
    stop: APattern | None = None
    """The request that stops a run, wherever it is recorded."""
    leave: Annotated[str, Field(pattern=r"^(continue|cancel|body:\S+)$")] = "continue"
    """What it means that no reader is left: `continue`, `cancel`, or what a field of the body says."""
    leave_after: Seconds = 30.0
    """Seconds without any reader after which a run is cancelled, where `leave` says so."""
    lost: str = ""
    """The last frame of a run whose upstream is lost, in the client's dialect."""
    stopped: str = ""
    """The last frame of a run that was stopped."""
    drop: Annotated[tuple[str, ...], Several, Field(strict=False)] = ()
    """Fields that are taken out of the body before it goes upstream."""
    set: dict[str, Scalar] = {}
    """Fields that the upstream gets in the body, whatever the client says of them."""
    answer: dict[str, str] = {}
    """Headers that are added to the answer; `{run}` in a value is the run's id, `{key}` its key."""
    replay: Annotated[tuple[str, ...], Several, Field(strict=False)] = ()
    """Headers of the answer that a replay has too, besides Content-Type, Cache-Control and the Locations."""
    comments: bool = True
    """Whether a comment is sent in silence, so that nobody takes the connection for dead."""
    values: dict[str, ASource] = {}
    """What else of the POST or of its answer has a name, for `rejoin` and `cancel`."""
    rejoin: Rejoin | None = None
    """How an answer is gone on with after its connection to the upstream is lost; without, its run is lost."""
    cancel: APattern | None = None
    """The upstream's own request to stop an answer, made when its run is stopped. Its connection is closed anyway."""
    input: bool = False
    """Whether the run's record holds the body of its POST."""
    credential: Annotated[tuple[ASource, ...], Several, Field(strict=False)] = ()
    """What of a request tells its client apart: only who has the same may come back."""
    authorize: APattern | None = None
    """A request that the upstream is asked, with the client's own headers, before a client may come back."""

    @field_validator("answer", "replay", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {str(name).lower(): each for name, each in value.items()}
        if isinstance(value, str):
            return value.lower()
        return [str(name).lower() for name in value] if isinstance(value, list | tuple) else value

    @field_validator("answer", "replay")
    @classmethod
    def _replayable(cls, value: Any) -> Any:
        for name in value:
            if name in NEVER_REPLAYED:
                raise ValueError(f"must not have {name}: it is about one answer to one client")
        return value

    @model_validator(mode="after")
    def _meant(self) -> Self:
        known = {_OURS} | ({"key"} if self.key is not None else set())
        for name, patterns in (("resume", self.resume), ("stop", (self.stop,) if self.stop else ())):
            for pattern in patterns:
                plain = (pattern.method, pattern.segments, pattern.query) in [
                    (each.method, each.segments, each.query) for each in self.start
                ]
                if not (pattern.names & known or (name == "resume" and self.ids) or plain):
                    raise ValueError(
                        f"{name} has {str(pattern)!r}, in which neither {{key}} nor {{run}} says which run"
                    )
        if self.authorize is not None and (unknown := self.authorize.names - self._found - known):
            raise ValueError(f"authorize has {{{min(unknown)}}}, which start does not find")
        if any(pattern.method not in ("POST", "GET") for pattern in self.start):
            raise ValueError("start must be a POST or a GET")
        if self.by_get and self.needs_body:
            raise ValueError("start has a GET, which has no body to look at")
        if self.attach and (self.key is None or not self.key.in_request):
            raise ValueError("attach needs a key that is in the request")
        if self.keyless and (self.key is None or not self.key.in_request):
            raise ValueError("keyless needs a key that is in the request")
        if any(not source.in_request for source in self.credential):
            raise ValueError("credential must be in the request")
        if taken := _RESERVED & self.values.keys():
            raise ValueError(f"values must not have {min(taken)}, which has a meaning already")
        for name, asked in (("rejoin", self.rejoin.ask if self.rejoin else None), ("cancel", self.cancel)):
            if asked is not None and (unknown := asked.names - self._named):
                raise ValueError(f"{name} has {{{min(unknown)}}}, which nothing gives a value")
        return self

    @property
    def by_get(self) -> bool:
        """True if an EventSource starts its runs: it comes back after every end, and must not start another so."""
        return any(pattern.method == "GET" for pattern in self.start)

    @property
    def alters(self) -> bool:
        """True if the upstream gets another body than the client has sent."""
        return bool(self.drop or self.set)

    @property
    def _sources(self) -> tuple[Source, ...]:
        return (*self.values.values(), *(() if self.key is None else (self.key,)))

    @property
    def telling(self) -> tuple[Source, ...]:
        """The sources of a client's mark: its credential, and where it was let in. A client that is let in at another
        place may not come back to what was asked at this one.
        """
        asked = frozenset[str]() if self.authorize is None else self.authorize.names
        return (*self.credential, *(Source("path", name) for name in sorted(asked & self._found)))

    @property
    def _found(self) -> frozenset[str]:
        """The placeholders of a POST's path."""
        return frozenset[str]().union(*(pattern.names for pattern in self.start))

    @property
    def _named(self) -> frozenset[str]:
        """The placeholders that have a value once the upstream has answered."""
        return self._found | self.values.keys() | {_OURS} | ({"key"} if self.key is not None else set())

    @property
    def lost_frame(self) -> str:
        return ended(self.frames, self.lost) if self.lost else ""

    @property
    def stopped_frame(self) -> bytes:
        return ended(self.frames, self.stopped).encode() if self.stopped else b""

    @property
    def media_type(self) -> str:
        return "text/event-stream" if self.frames == "sse" else "application/x-ndjson"

    @property
    def needs_body(self) -> bool:
        """True if the body tells whether a POST matches, or what becomes of it."""
        places = [
            source.place for source in (*self.credential, *self.values.values(), *((self.key,) if self.key else ()))
        ]
        return bool(self.when or self.alters or "body" in places or self.leave.startswith("body:") or self.input)

    @property
    def needs_frame(self) -> bool:
        """True if the answer's first frame has a value that the row needs."""
        return any(source.place == "frame" for source in self._sources)

    def wants(self, asked: Asked) -> bool:
        """Whether a POST that fits `start` is to be recorded, if it has its key."""
        return all(field(asked.body, name) == value for name, value in self.when.items())

    def takes(self, asked: Asked) -> bool:
        """Whether a POST that fits `start` is recorded."""
        named = self.key is None or not self.key.in_request or self.keyless or asked.find(self.key) is not None
        return named and self.wants(asked)

    def cancels(self, body: object) -> bool:
        """Whether this run is cancelled when no reader is left."""
        leave = field(body, self.leave[5:]) if self.leave.startswith("body:") else self.leave
        return leave == "cancel"


def read_row(written: Mapping[str, Any], place: str) -> Row:
    """A row. `place` names it to the operator who has written it. Raises BadRow."""
    try:
        return Row(**written)
    except ValidationError as error:
        named = f"{place} ({written['name']})" if isinstance(written.get("name"), str) else place
        raise BadRow("; ".join(f"{named}: {_explain(fault)}" for fault in error.errors())) from None


def _explain(fault: ErrorDetails) -> str:
    name = ".".join(str(part) for part in fault["loc"] if not isinstance(part, int))
    match fault["type"]:
        case "extra_forbidden":
            words = "is no field of a row"
        case "missing":
            words = "is missing"
        case _:
            words = fault["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ").removeprefix("Input ")
    return f"{name} {words}" if name else words
