"""The router of the reserved control APIs under `__ds` (§6, §7): addresses, methods, and what OpenAPI says of them."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from gateway.protocol.errors import MethodNotAllowed
from gateway.subscriptions import schemas
from gateway.subscriptions.errors import Code, Refusal
from gateway.subscriptions.handlers import Handlers
from gateway.subscriptions.http import PREFIX, Preflight
from gateway.subscriptions.schemas import body_of

_ONE: Final = "/subscriptions/{id}"
_METHODS: Final = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"]
_TOKEN: Final = [Depends(HTTPBearer(auto_error=False, description="The token of a claim or of a webhook's wake."))]


def make_router(handlers: Handlers) -> APIRouter:
    """Makes all routes, and 404 for every other path: the whole prefix is reserved (§6)."""
    router = APIRouter(prefix=PREFIX, tags=["subscriptions"])
    _add_subscription_routes(router, handlers)
    _add_stream_routes(router, handlers)
    _add_wake_routes(router, handlers)
    router.add_api_route(
        "/jwks.json",
        handlers.jwks,
        methods=["GET"],
        summary="Webhook signing keys (§6.5)",
        response_class=Response,
        responses={200: {"content": {"application/jwk-set+json": {"schema": schemas.schema_of(schemas.Jwks)}}}},
    )
    known = [route for route in router.routes if isinstance(route, APIRoute)]

    async def unknown(request: Request) -> Response:
        if request.method == "OPTIONS":
            return Preflight()
        path = request.scope["path"]
        allowed = {method for route in known if route.path_regex.match(path) for method in route.methods or ()}
        if allowed:
            raise MethodNotAllowed(None, [(b"allow", ", ".join(sorted(allowed)).encode())])
        raise Refusal(Code.SUBSCRIPTION_NOT_FOUND, "Durable Streams control route not found")

    router.add_api_route("", unknown, methods=_METHODS, include_in_schema=False)
    router.add_api_route("/{rest:path}", unknown, methods=_METHODS, include_in_schema=False)
    return router


def _add_subscription_routes(router: APIRouter, handlers: Handlers) -> None:
    router.add_api_route(
        "/subscriptions",
        handlers.listing,
        methods=["GET"],
        summary="List subscriptions (not in the protocol)",
        openapi_extra={"parameters": schemas.PAGE},
        responses={200: {"model": schemas.Subscriptions}, **_errors(Code.INVALID_REQUEST)},
    )
    router.add_api_route(
        _ONE,
        handlers.create,
        methods=["PUT"],
        status_code=201,
        summary="Create or confirm a subscription (§6.2)",
        openapi_extra=body_of(schemas.CreateRequest),
        responses={
            201: {"model": schemas.Subscription, "description": "Created."},
            200: {"model": schemas.Subscription, "description": "It exists, just as asked for."},
            **_errors(Code.INVALID_REQUEST, Code.WEBHOOK_URL_REJECTED, Code.SUBSCRIPTION_ALREADY_EXISTS),
        },
    )
    router.add_api_route(
        _ONE,
        handlers.read,
        methods=["GET"],
        summary="Read a subscription (§6.3)",
        responses={200: {"model": schemas.Subscription}, **_errors(Code.SUBSCRIPTION_NOT_FOUND)},
    )
    router.add_api_route(
        _ONE,
        handlers.delete,
        methods=["DELETE"],
        status_code=204,
        summary="Delete a subscription (§6.3)",
        responses=_errors(Code.INVALID_REQUEST),
    )


def _add_stream_routes(router: APIRouter, handlers: Handlers) -> None:
    router.add_api_route(
        f"{_ONE}/streams",
        handlers.add_streams,
        methods=["POST"],
        status_code=204,
        summary="Link streams (§6.4)",
        openapi_extra=body_of(schemas.StreamsRequest),
        responses=_errors(Code.INVALID_REQUEST, Code.SUBSCRIPTION_NOT_FOUND),
    )
    router.add_api_route(
        f"{_ONE}/streams/{{path:path}}",
        handlers.remove_stream,
        methods=["DELETE"],
        status_code=204,
        summary="Unlink a stream (§6.4)",
        responses=_errors(Code.INVALID_REQUEST, Code.SUBSCRIPTION_NOT_FOUND),
    )


def _add_wake_routes(router: APIRouter, handlers: Handlers) -> None:
    settling = _errors(
        Code.INVALID_REQUEST,
        Code.TOKEN_INVALID,
        Code.TOKEN_EXPIRED,
        Code.SUBSCRIPTION_NOT_FOUND,
        Code.FENCED,
        Code.INVALID_OFFSET,
    )
    router.add_api_route(
        f"{_ONE}/claim",
        handlers.claim,
        methods=["POST"],
        summary="Claim a pull-wake (§7.2)",
        openapi_extra=body_of(schemas.ClaimRequest),
        responses={
            200: {"model": schemas.Claimed},
            **_errors(Code.INVALID_REQUEST, Code.SUBSCRIPTION_NOT_FOUND, Code.ALREADY_CLAIMED, Code.NO_PENDING_WORK),
        },
    )
    for name, handler, summary in (
        ("callback", handlers.callback, "Call back from a webhook (§7.1)"),
        ("ack", handlers.ack, "Ack a pull-wake (§7.2)"),
    ):
        router.add_api_route(
            f"{_ONE}/{name}",
            handler,
            methods=["POST"],
            summary=summary,
            dependencies=_TOKEN,
            openapi_extra=body_of(schemas.AckRequest),
            responses={200: {"model": schemas.Settled}, **settling},
        )
    router.add_api_route(
        f"{_ONE}/release",
        handlers.release,
        methods=["POST"],
        status_code=204,
        summary="Release a pull-wake (§7.2)",
        dependencies=_TOKEN,
        openapi_extra=body_of(schemas.ReleaseRequest),
        responses=settling,
    )


def _errors(*codes: Code) -> dict[int | str, dict[str, Any]]:
    """The refusals of a route, by status, each with what it means."""
    documented: dict[int | str, dict[str, Any]] = {
        "default": {"model": schemas.Other, "description": "Refused for another reason, as by all of the gateway."}
    }
    for code in codes:
        entry = documented.setdefault(code.number, {"model": schemas.Error, "description": ""})
        entry["description"] = f"{entry['description']} {code.name}: {code.meaning}".lstrip()
    return documented
