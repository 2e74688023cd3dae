"""FastAPI with a queue per reader."""

from __future__ import annotations

from importlib.metadata import version

from loadtests.bench.peers.peer import Single, python


class FastApiQueue(Single):
    name = "fastapi"
    title = "FastAPI StreamingResponse + asyncio.Queue"
    publish = "/runs/b%r"
    subscribe = "/runs/b%r"

    @classmethod
    def version(cls) -> str:
        return f"FastAPI {version('fastapi')}, Starlette {version('starlette')}"

    async def command(self) -> list[str]:
        return python("queue_app", self.port)
