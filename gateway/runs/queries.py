"""The queries of requests for runs: a record (`?meta`), and lists of them. Refusals are InvalidRequest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

import orjson

from gateway.protocol.errors import InvalidRequest
from gateway.protocol.record import Status
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


def parse_meta(query: bytes) -> float | None:
    """The seconds that a GET of `?meta` waits for the run's end; None: it is a GET of the stream."""
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
        raise InvalidRequest(f"Runs cannot be listed by {', '.join(sorted(params))}.")
    if "\0" in query or "%00" in query:
        raise InvalidRequest("The query holds a NUL.")
    return request


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
