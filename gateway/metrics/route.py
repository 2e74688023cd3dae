"""`GET /metrics` as a route of the application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response

Expose = Callable[[str], Awaitable[tuple[bytes, str]]]
"""Text and content type of a scrape, for an `Accept` header."""


def metrics_router(exposition: Expose) -> APIRouter:
    """The one route."""
    router = APIRouter(tags=["health"])

    @router.get("/metrics", summary="Counts and gauges for Prometheus", response_class=Response)
    async def metrics(request: Request) -> Response:
        text, content_type = await exposition(request.headers.get("accept", ""))
        # As a header, since Starlette would add a second charset to a media type.
        return Response(text, headers={"content-type": content_type, "cache-control": "no-store"})

    return router
