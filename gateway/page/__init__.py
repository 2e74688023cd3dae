"""`/ui`: a page on which people see runs as they go on, and steer them. And `/client.js`, by which it follows them.

Its files are served as they are, without a build. They hold no secret, so everybody may have them; the gateway decides
what they show. They use only routes that everybody may use: the page is an example for those who write their own. Its
Content-Security-Policy lets it run no script but these, and speak to no host but this one.
"""

from __future__ import annotations

from importlib import resources
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from gateway.protocol.errors import RouteNotFound

CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)
CLIENT: Final = ("client.js", "client.d.ts")
"""The client for JavaScript and its types, which are in the gateway's wheel, for pages of other people's."""

_TYPES: Final = {"html": "text/html", "js": "text/javascript", "css": "text/css", "ts": "application/typescript"}
# A newer version of the gateway has newer files, and a page must not have some of each: so each is asked for again.
_HEADERS: Final = {"content-security-policy": CSP, "referrer-policy": "no-referrer", "cache-control": "no-cache"}


def files() -> dict[str, bytes]:
    """The page's files by their names."""
    folder = resources.files(__name__) / "files"
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.name.rpartition(".")[2] in _TYPES}


def client() -> dict[str, bytes]:
    """The files of the client for JavaScript by their names."""
    folder = resources.files("gateway") / "client" / "js"
    return {name: (folder / name).read_bytes() for name in CLIENT}


def page_router() -> APIRouter:
    """The routes of the page: `/ui`, its files below, and the client's. Another file raises RouteNotFound."""
    router = APIRouter(include_in_schema=False)
    found = {
        name: Response(content, media_type=_TYPES[name.rpartition(".")[2]], headers=_HEADERS)
        for name, content in (files() | client()).items()
    }
    found["client.js"].headers["x-typescript-types"] = "./client.d.ts"  # by which Deno finds them

    @router.api_route("/ui", methods=["GET", "HEAD"])
    async def page() -> Response:
        return found["index.html"]

    @router.api_route("/ui/{file}", methods=["GET", "HEAD"])
    async def part(file: str) -> Response:
        if file not in found:
            raise RouteNotFound
        return found[file]

    @router.api_route("/client.js", methods=["GET", "HEAD"])
    @router.api_route("/client.d.ts", methods=["GET", "HEAD"])
    async def of_the_client(request: Request) -> Response:
        return found[request.url.path.rpartition("/")[2]]

    return router
