"""The routes that FastAPI answers: all but streams, health and appends together, which the door answers itself.

It is imported when a request needs one of them, or a moment after the start: FastAPI takes longer to import than all
else.
"""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, FastAPI, Request, Response

from gateway.asgi import Scope
from gateway.auth.auth import Auth
from gateway.flue.flue import Flue
from gateway.http.following import Following
from gateway.http.following_routes import following_router
from gateway.http.openapi.appends import appends_router
from gateway.http.openapi.docs import Document, docs_router
from gateway.http.openapi.document import describe
from gateway.http.openapi.health import health_router
from gateway.http.openapi.refusals import render_refusals
from gateway.metrics.page import Exposition
from gateway.page import page_router
from gateway.runs import Runs
from gateway.subscriptions import Subscriptions

_NOWHERE: Final[Scope] = {"type": "http", "method": "GET", "path": "/", "root_path": "", "headers": []}


def make_api(
    *,
    auth: Auth,
    metrics: Exposition | None,
    subscriptions: Subscriptions,
    following: Following,
    flue: Flue | None,
    runs: Runs,
) -> FastAPI:
    """The API of a Machine. `metrics`: None where they have a port of their own."""
    api = FastAPI(title="Run gateway", redirect_slashes=False, openapi_url=None)
    api.openapi = lambda: describe(api, auth=auth.on)  # type: ignore[method-assign]
    api.include_router(docs_router(Document(api.openapi)))
    api.include_router(page_router())
    api.include_router(health_router())
    if metrics is not None:
        api.include_router(_metrics_router(metrics))
    api.include_router(appends_router())
    api.include_router(subscriptions.router())
    api.include_router(following_router(following))
    if flue is not None:
        api.include_router(flue.router(runs.routes.list))
    api.include_router(runs.router())
    render_refusals(api)
    for route in api.router.routes:  # FastAPI makes what it routes by at the first request, which takes 20 ms
        route.matches(_NOWHERE)
    return api


def _metrics_router(exposition: Exposition) -> APIRouter:
    """`GET /metrics`."""
    router = APIRouter(tags=["health"])

    @router.get("/metrics", summary="Counts and gauges for Prometheus", response_class=Response)
    async def metrics(request: Request) -> Response:
        text, content_type = await exposition(request.headers.get("accept", ""))
        # As a header, since Starlette would add a second charset to a media type.
        return Response(text, headers={"content-type": content_type, "cache-control": "no-store"})

    return router
