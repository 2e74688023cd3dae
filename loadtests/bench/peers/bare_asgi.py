"""Bare uvicorn: what the gateway's web server does with no gateway in it."""

from __future__ import annotations

from importlib.metadata import version

from loadtests.bench.peers.peer import Single, python


class BareAsgi(Single):
    name = "bare-asgi"
    title = "bare uvicorn ASGI, no database"
    publish = "/runs/b%r"

    @classmethod
    def version(cls) -> str:
        return f"uvicorn {version('uvicorn')}, uvloop {version('uvloop')}"

    async def command(self) -> list[str]:
        return python("bare_app", self.port)
