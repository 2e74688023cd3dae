"""An issuer of JWTs: keys of three kinds, tokens signed with them, and the address where its public keys are."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER, AUDIENCE = "https://issuer.example/", "runs"


class Issuer:
    """`keys`: what is published, as JWKs; `answering`: whether the address answers; `asked`: how often it was."""

    def __init__(self) -> None:
        self.private: dict[str, tuple[Any, str]] = {
            "rs": (rsa.generate_private_key(65537, 2048), "RS256"),
            "es": (ec.generate_private_key(ec.SECP256R1()), "ES256"),
            "ed": (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
        }
        self.keys: list[Any] = [self.public(kid) for kid in self.private]
        self.answering = True
        self.asked = 0
        self.url = ""

    def public(self, kid: str) -> dict[str, Any]:
        key, algorithm = self.private[kid]
        kinds: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
        return {**kinds[algorithm].to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}

    def token(self, kid: str = "ed", **claims: Any) -> str:
        """A token that is right, but for what `claims` say."""
        key, algorithm = self.private[kid]
        return jwt.encode(right(**claims), key, algorithm, headers={"kid": kid})


def right(**claims: Any) -> dict[str, Any]:
    """The claims of a token that is right, but for these; None leaves one out."""
    now = int(time.time())
    whole = {"iss": ISSUER, "aud": AUDIENCE, "exp": now + 600, "sub": "ada", "scope": "read write", **claims}
    return {name: value for name, value in whole.items() if value is not None}


@contextmanager
def issuing() -> Iterator[Issuer]:
    """An issuer whose address answers."""
    issuer = Issuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked += 1
            body = json.dumps({"keys": issuer.keys}).encode()
            self.send_response(200 if issuer.answering else 503)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer.url = f"http://127.0.0.1:{server.server_port}/jwks.json"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
