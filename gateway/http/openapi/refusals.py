"""FastAPI's own refusals and faults in the one shape of all others."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from gateway.http import responses
from gateway.http.door import refusal_for
from gateway.protocol.errors import MethodNotAllowed, ProtocolError, RouteNotFound


def render_refusals(api: FastAPI) -> None:
    """Makes an application refuse so."""
    handlers: dict[type[Exception], Any] = {
        ProtocolError: _render,
        HTTPException: _render_http,
        Exception: _render_fault,
    }
    for error, handler in handlers.items():
        api.add_exception_handler(error, handler)


async def _render(request: Request, error: ProtocolError) -> Response:
    (headers, body), status = responses.refusal(request.scope, error), error.status
    if responses.comes_back(request.scope, error):
        (headers, body), status = responses.later(), 200
    response = Response(body, status_code=status)
    response.raw_headers = [*headers, (b"content-length", b"%d" % len(body))]
    return response


async def _render_fault(request: Request, error: Exception) -> Response:
    return await _render(request, refusal_for(request.scope, error))


async def _render_http(request: Request, error: HTTPException) -> Response:
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        return await _render(request, MethodNotAllowed(None, [(b"allow", allow.encode())]))
    return await _render(request, RouteNotFound())
