"""`GET /runs` where a Flue app's runs are served: its records, newest first; `source=gateway` lists the gateway's own.

Pages and cursors are those of Flue's own store (`runtime/run-store.ts`), which has them and no route for them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from gateway.auth.gate import principal_of
from gateway.flue.records import After, Records
from gateway.protocol.errors import InvalidRequest
from gateway.protocol.run_list import decode_cursor, encode_cursor, page, parse_limit, parse_status

ListRuns = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class ListRequest:
    """`after`: the last run of the page before."""

    status: str | None
    workflow_name: str | None
    limit: int
    after: After | None


def make_router(records: Records, own: ListRuns) -> APIRouter:
    """The route, to stand before the one of `own`, which lists the gateway's own runs."""
    router = APIRouter()

    async def list_runs(request: Request) -> Response:
        try:
            query = parse_qsl(request.url.query, keep_blank_values=True, max_num_fields=64)
        except ValueError:
            raise InvalidRequest("The query string cannot be read.") from None
        source = dict(query).get("source", "flue")
        if source not in ("flue", "gateway"):
            raise InvalidRequest("source must be flue or gateway.")
        rest = [(name, value) for name, value in query if name != "source"]
        if source == "gateway" or principal_of(request.scope).tenant:
            scope = dict(request.scope) | {"query_string": urlencode(rest).encode()}
            return await own(Request(scope, request.receive))
        asked = parse_list(rest)
        found, end = await records.page(asked.status, asked.workflow_name, asked.limit, asked.after)
        content = page(found, None if end is None else format_cursor(end))
        return Response(content, media_type="application/json", headers={"cache-control": "no-store"})

    router.add_api_route("/runs", list_runs, methods=["GET"], include_in_schema=False)
    return router


def parse_list(query: list[tuple[str, str]]) -> ListRequest:
    """`?status=&workflowName=&limit=&cursor=`. Raises InvalidRequest, for what it does not know too."""
    params = dict(query)
    if len(params) < len(query):
        raise InvalidRequest("A query parameter is there more than once.")
    if any("\0" in value for value in params.values()):
        raise InvalidRequest("The query holds a NUL.")
    request = ListRequest(
        parse_status(params.pop("status", None)),
        params.pop("workflowName", None),
        parse_limit(params.pop("limit", None)),
        _after(params.pop("cursor", None)),
    )
    if params:
        raise InvalidRequest(f"Flue's runs cannot be listed by {', '.join(sorted(params))}.")
    return request


def format_cursor(after: After) -> str:
    """A cursor in the form of Flue's encodeRunCursor."""
    return encode_cursor(orjson.dumps({"s": after.started_at, "r": after.run_id}))


def _after(cursor: str | None) -> After | None:
    if cursor is None:
        return None
    try:
        found = orjson.loads(decode_cursor(cursor))
        started_at, run_id = found["s"], found["r"]
    except (ValueError, KeyError, TypeError):
        started_at = run_id = None
    if not isinstance(started_at, str) or not isinstance(run_id, str) or "\0" in started_at + run_id:
        raise InvalidRequest("cursor is none that was given out.")
    return After(started_at, run_id)
