"""`/ui`: a page on which people see runs as they go on, and steer them.

Its files are served as they are, without a build. They hold no secret, so everybody may have them; the gateway decides
what they show. They use only routes that everybody may use: the page is an example for those who write their own. Its
Content-Security-Policy lets it run no script but these, and speak to no host but this one.
"""

from __future__ import annotations

from importlib import resources
from typing import Final

from fastapi import APIRouter
from fastapi.responses import Response

from gateway.protocol.errors import RouteNotFound

CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)
_TYPES: Final = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
# A newer version of the gateway has newer files, and a page must not have some of each: so each is asked for again.
_HEADERS: Final = {"content-security-policy": CSP, "referrer-policy": "no-referrer", "cache-control": "no-cache"}


def files() -> dict[str, bytes]:
    """The page's files by their names."""
    folder = resources.files(__name__) / "files"
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.name.rpartition(".")[2] in _TYPES}


def page_router() -> APIRouter:
    """The routes of the page: `/ui`, and its files below. Another file raises RouteNotFound."""
    router = APIRouter(include_in_schema=False)
    found = {
        name: Response(content, media_type=_TYPES[name.rpartition(".")[2]], headers=_HEADERS)
        for name, content in files().items()
    }

    @router.api_route("/ui", methods=["GET", "HEAD"])
    async def page() -> Response:
        return found["index.html"]

    @router.api_route("/ui/{file}", methods=["GET", "HEAD"])
    async def part(file: str) -> Response:
        if file not in found:
            raise RouteNotFound
        return found[file]

    return router
