"""`GET /metrics`: a route of the application, or an application of its own on a port of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response

Exposition = Callable[[str], Awaitable[tuple[bytes, str]]]
"""From an `Accept` header to text and content type."""


def metrics_router(exposition: Exposition) -> APIRouter:
    """The one route."""
    router = APIRouter(tags=["health"])

    @router.get("/metrics", summary="Counts and gauges for Prometheus", response_class=Response)
    async def metrics(request: Request) -> Response:
        text, content_type = await exposition(request.headers.get("accept", ""))
        # As it is: Starlette would add a second charset to this type.
        return Response(text, headers={"content-type": content_type, "cache-control": "no-store"})

    return router
