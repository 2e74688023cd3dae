"""The kernel floor: floor.c, which sends frames and does nothing else."""

from __future__ import annotations

import platform

from loadtests.bench.peers.peer import Single


class Floor(Single):
    name = "floor"
    title = "kernel floor (C, send() in a loop)"
    publish = "/runs/%r"
    subscribe = "/runs/%r?offset=%o"

    @classmethod
    def version(cls) -> str:
        return f"Linux {platform.release()}"

    async def command(self) -> list[str]:
        return [str(self.lab.tool("floor")), "--port", str(self.port)]
