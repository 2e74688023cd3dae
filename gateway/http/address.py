"""The address by which clients know this server, with which the links in answers begin."""

from __future__ import annotations

from gateway.asgi import Scope


def base_url(scope: Scope, public_url: str | None) -> str:
    """`public_url` where it is set, else where this request was sent to, without a path.

    Behind a proxy that the server trusts (FORWARDED_ALLOW_IPS), the scheme is the client's own: uvicorn has put what
    X-Forwarded-Proto says into the scope. The host is that of the Host header, which a proxy has to pass on.
    """
    if public_url is not None:
        return public_url
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), None)
    if host is None:
        address, port = scope["server"]
        host = f"{address}:{port}"
    return f"{scope['scheme']}://{host}"
