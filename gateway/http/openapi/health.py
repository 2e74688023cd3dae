"""`/health` and `/ready` for OpenAPI. They are answered by `gateway.http.health`, and never come here."""

from __future__ import annotations

from fastapi import APIRouter

from gateway.http.health import Alive, Health


def health_router() -> APIRouter:
    """The two routes."""
    router = APIRouter(tags=["health"])

    @router.get("/health", summary="Is the process alive? Costs no database.")
    async def health() -> Alive:
        raise NotImplementedError

    @router.get(
        "/ready",
        summary="May this Machine be sent requests?",
        response_model_exclude_none=True,
        responses={503: {"model": Health, "description": "Draining, or without a database."}},
    )
    async def ready() -> Health:
        raise NotImplementedError

    return router
