"""The queries of requests for runs: a record (`?meta`), and lists of them. Refusals are InvalidRequest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import parse_qsl, urlencode

import orjson

from gateway.protocol import list_offset
from gateway.protocol.changes import Kind, Standing, digest, parse_standing
from gateway.protocol.errors import InvalidRequest
from gateway.protocol.fold import Fold, parse_fold
from gateway.protocol.many import MOST
from gateway.protocol.offset import NOW, START
from gateway.protocol.read import RESUMING, last_event_id
from gateway.protocol.record import RunRecord, Status
from gateway.protocol.run_list import decode_cursor, encode_cursor, parse_limit, parse_status
from gateway.runs.bodies import MAX_NUMBER, Scalar

MAX_WAIT: Final = 300.0  # seconds that a request may wait for a run's end


@dataclass(frozen=True, slots=True)
class ListRequest:
    """`GET /runs`. `metadata`: for each name that is asked for, JSON objects, one of which the record's has to contain.
    `before`: the run with which the page before ended.
    """

    status: Status | None
    workflow_name: str | None
    metadata: list[list[str]]
    limit: int
    before: int | None


@dataclass(frozen=True, slots=True)
class LiveRequest:
    """`GET /runs?live=sse`. `standing`: where a reader that comes back stands; `digest`: what ids are bound to."""

    list: ListRequest
    digest: bytes
    standing: Standing | None


@dataclass(frozen=True, slots=True)
class MetaRequest:
    """`GET /runs/<id>?meta`. `wait`: seconds for the run's end; `activity`: what its stream does is asked for, too."""

    wait: float
    activity: bool


def parse_meta(query: bytes) -> MetaRequest | None:
    """Parses a GET of `?meta`; None: it is a GET of the stream. Of its values `activity` alone has a meaning."""
    params = _query(query.decode("latin-1"))
    if "meta" not in params:
        return None
    try:
        wait = float(params.get("wait", "0"))
    except ValueError:
        wait = -1
    if not 0 <= wait <= MAX_WAIT:
        raise InvalidRequest(f"wait must be a number of seconds from 0 to {MAX_WAIT:g}.")
    return MetaRequest(wait, params["meta"] == "activity")


def parse_list(query: str) -> ListRequest:
    """`?status=&workflowName=&metadata.k=v&limit=&cursor=`; a parameter that is not known is refused as well."""
    params = _query(query)
    metadata = [
        [orjson.dumps({name.removeprefix("metadata."): meant}).decode() for meant in _meant(params.pop(name))]
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
        known = "status, workflowName, metadata.NAME, limit and cursor"
        raise InvalidRequest(f"Runs are listed by {known}, and not by {', '.join(sorted(params))}.")
    if "\0" in query or "%00" in query:
        raise InvalidRequest("The query holds a NUL.")
    return request


def parse_live(query: str, headers: dict[bytes, bytes]) -> LiveRequest:
    """A live list: `live=sse`, and the filters of a list. `headers`: `last-event-id`, if it is there."""
    params = _query(query)
    if params.pop("live", None) != "sse":
        raise InvalidRequest("A list is followed with live=sse.")
    text = last_event_id(headers, [(name, params.pop(name)) for name in RESUMING if name in params])
    if "cursor" in params:
        raise InvalidRequest("A live list begins with the newest runs: a cursor has no meaning there.")
    request = parse_list(urlencode(params))
    of = digest(f"{name}={value}" for name, value in sorted(params.items()))
    standing = None if text is None else parse_standing(text, of)
    if text is not None and standing is None:
        raise InvalidRequest("The last event's id is none that was given out for this list.")
    return LiveRequest(request, of, standing)


@dataclass(frozen=True, slots=True)
class FollowRequest:
    """A request to follow all runs of a list. `positions`: where a reader that comes back stands in each run's stream,
    and `standing` where in the list; None: it is new. `begin`: where the first ones are begun, which may be NOW.
    """

    list: ListRequest
    digest: bytes
    begin: int
    fold: Fold | None
    standing: Standing | None
    positions: dict[int, int]


def parse_follow(query: str, headers: dict[bytes, bytes]) -> FollowRequest:
    """`live=sse`, the filters of a list, and `offset` and `fold` as for streams that are named."""
    params = _query(query)
    resumed = last_event_id(headers, [(name, params.pop(name)) for name in RESUMING if name in params])
    offset, fold = params.pop("offset", "-1"), params.pop("fold", None)
    if "limit" in params or "stream" in params:
        raise InvalidRequest("Runs are followed by the filters of a list, or streams by their names.")
    live = parse_live(urlencode(params), {})
    of = digest(["follow", live.digest.hex()])
    given = resumed or offset.encode("latin-1", "replace")
    begin = NOW if offset == "now" else START
    request = replace(live.list, limit=MOST)
    if given in (b"-1", b"now"):
        return FollowRequest(request, of, begin, None if fold is None else parse_fold(fold), None, {})
    known = list_offset.parse(given, of, 2 * MOST)
    if known is None:
        raise InvalidRequest("The offset is none that was given out for the runs of this list.")
    return FollowRequest(request, of, begin, None if fold is None else parse_fold(fold), *known)


def shows(request: ListRequest, kind: Kind, record: RunRecord) -> bool:
    """True if a change is of a run that the list shows, or showed until then. `record`: of the run, as it is now."""
    if request.workflow_name is not None and record.workflow_name != request.workflow_name:
        return False
    if request.status is not None:
        # A run is active until it ends, also if that was before the list is read.
        was = "active" if kind in ("created", "cancelled") else record.status
        if request.status != was and not (kind in ("ended", "removed") and request.status == "active"):
            return False
    if not request.metadata:
        return True
    metadata = orjson.loads(record.metadata or b"{}")
    return all(any(_contains(metadata, each) for each in alternatives) for alternatives in request.metadata)


def _contains(metadata: dict[str, Scalar], alternative: str) -> bool:
    ((name, value),) = orjson.loads(alternative).items()
    found = metadata.get(name)
    return found is not None and isinstance(found, bool) == isinstance(value, bool) and found == value


def _meant(text: str) -> list[Scalar]:
    """The values that a text in a query may mean: itself, and the number or boolean that it reads as."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return [text]
    return [text, value] if isinstance(value, int | float) and abs(value) < MAX_NUMBER else [text]


def format_cursor(stream: int) -> str:
    """The end of a page of a list, as a text that the client sends back unchanged."""
    return encode_cursor(b"%d" % stream)


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
