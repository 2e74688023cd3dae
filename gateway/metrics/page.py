"""`GET /metrics`: a route of the application, or an application of its own for a port of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, FastAPI, Request, Response

from gateway.metrics.catalogue import Parts
from gateway.metrics.collector import Machine, dump, merge, render
from gateway.metrics.siblings import Siblings
from gateway.tasks import in_turns


class Exposition:
    """The text of a scrape: this process, and its siblings if it has any."""

    def __init__(self, parts: Parts, siblings: Siblings | None) -> None:
        self._machine = Machine(parts)
        self._siblings = siblings

    async def open(self) -> None:
        """Begins to answer siblings that ask."""
        if self._siblings is not None:
            await self._siblings.open(lambda: dump(self._machine))

    async def close(self) -> None:
        if self._siblings is not None:
            await self._siblings.close()

    async def __call__(self, accept: str) -> tuple[bytes, str]:
        """Text and content type, for an `Accept` header."""
        if self._siblings is None:
            return await in_turns(render(self._machine, accept))
        others = await self._siblings.others()
        all = merge({str(self._siblings.number): self._machine.collect(), **others})
        return await in_turns(render(all, accept))


def metrics_router(exposition: Callable[[str], Awaitable[tuple[bytes, str]]]) -> APIRouter:
    """The one route."""
    router = APIRouter(tags=["health"])

    @router.get("/metrics", summary="Counts and gauges for Prometheus", response_class=Response)
    async def metrics(request: Request) -> Response:
        text, content_type = await exposition(request.headers.get("accept", ""))
        # As a header, since Starlette would add a second charset to a media type.
        return Response(text, headers={"content-type": content_type, "cache-control": "no-store"})

    return router


def metrics_app(exposition: Callable[[str], Awaitable[tuple[bytes, str]]]) -> FastAPI:
    """An application of nothing but the route, for a port that the public does not reach."""
    app = FastAPI(openapi_url=None)
    app.include_router(metrics_router(exposition))
    return app
