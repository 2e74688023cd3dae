"""The links of the OpenAPI document (OpenAPI 3.1 §4.8.20): what an answer leads to. Tests walk along them."""

from __future__ import annotations

from typing import Any, Final

Json = dict[str, Any]
End = tuple[str, str]
"""An operation: its method and route, as the document has them."""

_STREAM: Final = "/v1/stream/{path}"
_RUN: Final = "/runs/{id}"
_SUBSCRIPTION: Final = "/v1/stream/__ds/subscriptions/{id}"

_AT_THE_PATH: Final = {"path.path": "$request.path.path"}
_OF_THE_ID: Final = {"path.id": "$request.path.id"}
_OF_THE_RUN: Final = {"path.id": "$response.body#/runId"}
_IN_ITS_TYPE: Final = {"header.Content-Type": "$request.header.Content-Type"}
_FROM_THERE: Final = {"query.offset": "$response.header.Stream-Next-Offset"}
_WAKE: Final = {"wake_id": "$response.body#/wake_id", "generation": "$response.body#/generation"}

LINKS: Final[list[tuple[End, str, End, dict[str, str], Json | None]]] = [
    *[
        link
        for route, same, fork in (
            (_STREAM, _AT_THE_PATH, "/v1/stream/{$request.path.path}"),
            (_RUN, _OF_THE_ID, "/runs/{$request.path.id}"),
        )
        for link in (
            (("put", route), "append", ("post", route), same | _IN_ITS_TYPE, None),
            (("put", route), "read", ("get", route), same, None),
            (("put", route), "look", ("head", route), same, None),
            (("put", route), "fork", ("put", route), {"header.Stream-Forked-From": fork}, None),
            (("put", route), "delete", ("delete", route), same, None),
            (("post", route), "appendMore", ("post", route), same | _IN_ITS_TYPE, None),
            (("post", route), "readOn", ("get", route), same | _FROM_THERE, None),
            (("get", route), "readOn", ("get", route), same | _FROM_THERE, None),
            (("get", route), "append", ("post", route), same, None),
            (("delete", route), "createAnew", ("put", route), same, None),
            (("delete", route), "read", ("get", route), same, None),
        )
    ],
    (("post", "/runs"), "append", ("post", _RUN), _OF_THE_RUN, None),
    (("post", "/runs"), "read", ("get", _RUN), _OF_THE_RUN, None),
    (("post", "/runs"), "cancel", ("post", f"{_RUN}/cancel"), _OF_THE_RUN, None),
    (("post", "/runs"), "heartbeat", ("post", f"{_RUN}/heartbeat"), _OF_THE_RUN, None),
    (("post", "/runs"), "token", ("post", f"{_RUN}/token"), _OF_THE_RUN, None),
    (("post", "/runs"), "tell", ("post", f"{_RUN}/control"), _OF_THE_RUN, None),
    (("post", "/runs"), "delete", ("delete", _RUN), _OF_THE_RUN, None),
    (("post", _RUN), "cancel", ("post", f"{_RUN}/cancel"), _OF_THE_ID, None),
    (("post", f"{_RUN}/cancel"), "readControl", ("get", f"{_RUN}/control"), _OF_THE_ID, None),
    (("post", f"{_RUN}/cancel"), "append", ("post", _RUN), _OF_THE_ID, None),
    (("put", _SUBSCRIPTION), "read", ("get", _SUBSCRIPTION), _OF_THE_ID, None),
    (("put", _SUBSCRIPTION), "link", ("post", f"{_SUBSCRIPTION}/streams"), _OF_THE_ID, None),
    (("put", _SUBSCRIPTION), "claim", ("post", f"{_SUBSCRIPTION}/claim"), _OF_THE_ID, None),
    (("put", _SUBSCRIPTION), "delete", ("delete", _SUBSCRIPTION), _OF_THE_ID, None),
    (("post", f"{_SUBSCRIPTION}/streams"), "claim", ("post", f"{_SUBSCRIPTION}/claim"), _OF_THE_ID, None),
    (("post", f"{_SUBSCRIPTION}/claim"), "ack", ("post", f"{_SUBSCRIPTION}/ack"), _OF_THE_ID, _WAKE),
    (("post", f"{_SUBSCRIPTION}/claim"), "release", ("post", f"{_SUBSCRIPTION}/release"), _OF_THE_ID, _WAKE),
    (("post", f"{_SUBSCRIPTION}/ack"), "claimNext", ("post", f"{_SUBSCRIPTION}/claim"), _OF_THE_ID, None),
    (("post", f"{_SUBSCRIPTION}/release"), "claimAgain", ("post", f"{_SUBSCRIPTION}/claim"), _OF_THE_ID, None),
    (("delete", _SUBSCRIPTION), "createAnew", ("put", _SUBSCRIPTION), _OF_THE_ID, None),
]
"""Source, name, target, the target's parameters and its body, from the source's request and response."""


def link(document: Json) -> None:
    """Adds those whose ends the document has, to every answer of success that their sources have."""
    for (method, route), name, (other, target), parameters, body in LINKS:
        if not {route, target} <= document["paths"].keys():
            continue
        found: Json = {
            "operationId": document["paths"][target][other]["operationId"],
            "parameters": parameters,
        } | ({} if body is None else {"requestBody": body})
        for status, answer in document["paths"][route][method]["responses"].items():
            if status.startswith("2"):
                answer.setdefault("links", {})[name] = found
