"""`/`: links to what is here. `/docs`: the API described for people, by Swagger UI. `/openapi.json`: for programs.

Visitors type keys into that page, so it must run no script that a third party could change. All its files are served
from here, and its Content-Security-Policy allows no others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import Final

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from gateway.http.openapi.stream_operations import Json
from gateway.protocol.headers import etag_matches

CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Relative addresses, so that it works below the path prefix of a proxy.
_PAGE: Final = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Run gateway</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
<form id="ask" hidden>
  <label>This gateway asks for a key: <input name="key" type="password" autocomplete="off" required></label>
  <button>Show</button>
</form>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</html>
"""
# The key is where the page of runs keeps it: in this tab, until that is closed.
_START: Final = b"""const KEPT = "run-gateway-key";
const ask = document.getElementById("ask");
const withKey = (request) => {
  const key = sessionStorage.getItem(KEPT);
  if (key && !request.headers.Authorization) request.headers.Authorization = `Bearer ${key}`;
  return request;
};
async function start() {
  const response = await fetch("openapi.json", withKey({ headers: {} }));
  ask.hidden = response.ok;
  if (!response.ok) return;
  SwaggerUIBundle({
    spec: await response.json(), dom_id: "#swagger-ui", deepLinking: true, requestInterceptor: withKey,
  });
}
ask.addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEPT, ask.key.value.trim());
  start();
});
start();
"""
_ROOT: Final = {
    "name": "run-gateway",
    "ui": "/ui",
    "docs": "/docs",
    "openapi": "/openapi.json",
    "runs": "/runs",
    "ready": "/ready",
}
_KEPT: Final = {"cache-control": "max-age=3600"}


class Document:
    """The description as it is sent, with its ETag: made once, at the first request, in a thread, since that takes 40
    ms. `describe` makes it.
    """

    def __init__(self, describe: Callable[[], Json]) -> None:
        self._describe = describe
        self._made: asyncio.Future[tuple[bytes, str]] | None = None

    async def __call__(self) -> tuple[bytes, str]:
        if self._made is None:
            self._made = asyncio.ensure_future(asyncio.to_thread(self._make))
        return await asyncio.shield(self._made)

    def _make(self) -> tuple[bytes, str]:
        text = orjson.dumps(self._describe())
        return text, f'"{sha256(text).hexdigest()[:32]}"'


def docs_router(document: Document) -> APIRouter:
    """Routes of the front page, of the description, and of the files that its page needs."""
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"], response_model=None)
    async def root(request: Request) -> Response | dict[str, str]:
        if "text/html" in request.headers.get("accept", ""):  # a person's browser; relative, for a proxy's path prefix
            return Response(status_code=307, headers={"location": "ui", "cache-control": "no-store", "vary": "accept"})
        return _ROOT

    @router.api_route("/openapi.json", methods=["GET", "HEAD"])
    async def described(request: Request) -> Response:
        text, tag = await document()
        headers = {"etag": tag, "cache-control": "no-cache"}
        if etag_matches(request.headers.get("if-none-match", "").encode("latin-1"), tag.encode()):
            return Response(status_code=304, headers=headers)
        return Response(text, media_type="application/json", headers=headers)

    @router.get("/docs")
    async def page() -> Response:
        headers = {"content-security-policy": CSP, "referrer-policy": "no-referrer", "cache-control": "no-cache"}
        return Response(_PAGE, media_type="text/html", headers=headers)

    @router.get("/docs/start.js")
    async def start() -> Response:
        return Response(_START, media_type="text/javascript", headers=_KEPT)

    @router.get("/docs/swagger-ui-bundle.js")
    async def script() -> Response:
        return Response(_file("swagger-ui-bundle.js"), media_type="text/javascript", headers=_KEPT)

    @router.get("/docs/swagger-ui.css")
    async def style() -> Response:
        return Response(_file("swagger-ui.css"), media_type="text/css", headers=_KEPT)

    return router


@cache
def _file(name: str) -> bytes:
    # Only the package's files are used, which are those of the npm package, and not what it does to applications.
    return (resources.files("fastapi_swagger.resources") / name).read_bytes()
