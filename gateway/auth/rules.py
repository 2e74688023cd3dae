"""The scope that each route needs, in one table. The tests try every route with every kind of credential by it.

While AUTH is on, a route that is not in the table is 404 for everyone. So a forgotten one is closed, and fails a test.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import unquote

from gateway.auth.principal import Principal, Scope
from gateway.protocol.errors import MethodNotAllowed, ProtocolError, RouteNotFound
from gateway.protocol.target import Part, Target

Need = Scope | Literal["nothing", "optional", "own", "each"]
"""`nothing`: open to all. `optional`: so too, and who shows a credential may be told more. `own`: the request bears a
credential of another kind, which its handler checks. `each`: it names streams, each of which its handler lets this
credential read, or another that the stream has of its own.
"""

Methods = Mapping[str, Need]

STREAM: Final[Methods] = {"GET": "read", "HEAD": "read", "PUT": "write", "POST": "write", "DELETE": "admin"}
STREAMS: Final = ("/v1/stream/{path}", "/runs/{id}")
"""The routes that need what STREAM says."""

LEFT: Final = ("/", "/client.js", "/client.d.ts")
"""Paths that are the application's, where there is one behind the gateway. Its own of these are at `/ui`."""

BELOW_A_RUN: Final[dict[Part, Methods]] = {
    Part.CONTROL: {"GET": "read", "HEAD": "read", "PUT": "control", "POST": "control"},
    Part.CANCEL: {"POST": "control"},
    Part.HEARTBEAT: {"POST": "write"},
    Part.TOKEN: {"POST": "write"},  # who makes runs may say who reads them; `runs.tokens` asks for "read" besides
}
"""The routes below a run. A credential for some runs only must be for that one."""

_CONTROL: Final[Methods] = dict.fromkeys(("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"), "control")
_SUBSCRIPTION: Final = "/v1/stream/__ds/subscriptions/{id}"

ROUTES: Final[dict[str, Methods]] = {
    "/health": {"GET": "nothing"},
    "/ready": {"GET": "optional"},  # a load balancer learns what it needs; `http.health` tells an operator more
    "/metrics": {"GET": "admin"},
    "/runs": {"POST": "write", "GET": "read"},
    "/v1/appends": {"POST": "write"},  # and each of its streams, by `gate.check_target`
    # Pages are the same for everybody. What they show, they ask for with their visitor's key.
    "/": {"GET": "nothing"},
    "/ui": {"GET": "nothing"},
    "/ui/{file}": {"GET": "nothing"},
    "/client.js": {"GET": "nothing"},
    "/client.d.ts": {"GET": "nothing"},
    "/docs": {"GET": "nothing"},
    "/docs/start.js": {"GET": "nothing"},
    "/docs/swagger-ui-bundle.js": {"GET": "nothing"},
    "/docs/swagger-ui.css": {"GET": "nothing"},
    "/openapi.json": {"GET": "read"},
    "/v1/stream": {"GET": "each", "POST": "each"},
    # Subscriptions make the gateway call others, and see the whole tenant. Workers show the token of their wake.
    "/v1/stream/__ds/subscriptions": {"GET": "control"},
    _SUBSCRIPTION: {"PUT": "control", "GET": "control", "DELETE": "control"},
    f"{_SUBSCRIPTION}/streams": {"POST": "control"},
    f"{_SUBSCRIPTION}/streams/{{path:path}}": {"DELETE": "control"},
    f"{_SUBSCRIPTION}/claim": {"POST": "control"},
    f"{_SUBSCRIPTION}/callback": {"POST": "own"},
    f"{_SUBSCRIPTION}/ack": {"POST": "own"},
    f"{_SUBSCRIPTION}/release": {"POST": "own"},
    "/v1/stream/__ds/jwks.json": {"GET": "nothing"},  # public keys, for the receivers of webhooks
    "/v1/stream/__ds": _CONTROL,  # reserved (§6): below here, nothing else exists
    "/v1/stream/__ds/{rest:path}": _CONTROL,
}
"""Every route but the streams' own, as the framework writes it; the first that fits counts. HEAD is as GET."""


@dataclass(frozen=True, slots=True)
class _Route:
    form: re.Pattern[str]
    methods: Methods

    @staticmethod
    def of(template: str, methods: Methods) -> _Route:
        # As in the framework: a parameter is one segment of a path, or any number of them with `:path`.
        parts = re.split(r"\{(\w+)(:path)?\}", template)
        form = re.escape(parts[0])
        for _, path, literal in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            form += (".*" if path else "[^/]+") + re.escape(literal)
        return _Route(re.compile(form), methods)


_ROUTES: Final = [_Route.of(template, methods) for template, methods in ROUTES.items()]


def ours(target: Target) -> bool:
    """True if a request is for the gateway itself, and not for the application behind it.

    That holds for every other spelling of such a path, like `/RUNS/x`: an application that takes it for `/runs/x` would
    show the run to a client that the gate has not let in.
    """
    return _ours(target) or _ours(Target.of(_plainest(target.path)))


def _ours(target: Target) -> bool:
    if target.path in LEFT:
        return False
    if target.stream is not None or target.reserved:
        return True
    return any(route.form.fullmatch(target.path) for route in _ROUTES)


def _plainest(path: str) -> str:
    """The path as the most lenient server reads it: unescaped once more, without dots, `//`, upper case or `;x`."""
    segments: list[str] = []
    for part in re.split(r"[/\\]+", unquote(path).casefold()):
        segment = part.partition(";")[0]
        if segment == "..":
            segments[-1:] = []
        elif segment not in ("", "."):
            segments.append(segment)
    return "/" + "/".join(segments)


def needed(method: str, target: Target) -> Need | ProtocolError:
    """The scope that a request needs; or its refusal, RouteNotFound or MethodNotAllowed, if no credential is enough."""
    if method == "OPTIONS":
        return "nothing"  # a browser's preflight carries no credential, by the Fetch standard
    if target.stream is not None:
        return _need(STREAM if target.part is None else BELOW_A_RUN[target.part], method)
    for route in _ROUTES:
        if route.form.fullmatch(target.path):
            return _need(route.methods, method)
    return RouteNotFound()


def may_reach(principal: Principal, method: str, target: Target) -> bool:
    """True if a request concerns nothing beyond its credential, as far as the URL says."""
    if not principal.bound:
        return True
    if target.about is not None:
        return principal.reaches(target.about)
    # Whose bodies say which streams are meant, and whose handlers check that.
    return method == "POST" and target.path in ("/runs", "/v1/appends")


def need_of(template: str, method: str) -> Need:
    """The scope that a route needs, by its template in OpenAPI. Raises MethodNotAllowed; LookupError for an unknown
    template.
    """
    if template in STREAMS:
        methods = STREAM
    elif (part := Target.of(template).part) is not None:
        methods = BELOW_A_RUN[part]
    else:
        methods = next(methods for route, methods in ROUTES.items() if route.replace(":path", "") == template)
    need = _need(methods, method)
    if isinstance(need, ProtocolError):
        raise need
    return need


def _need(methods: Methods, method: str) -> Need | MethodNotAllowed:
    need = methods.get(method) or (methods.get("GET") if method == "HEAD" else None)
    if need is None:
        return MethodNotAllowed(None, [(b"allow", ", ".join([*methods, "OPTIONS"]).encode())])
    return need
