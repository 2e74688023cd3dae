"""Postgres' door in a region: a port of the namespace that leads to its socket, which knows no namespaces.

`python -m loadtests.regions.door PID ADDRESS PORT SOCKET`, until it is ended.
"""

from __future__ import annotations

import asyncio
import sys

from loadtests.regions.network import enter
from tests.tools.proxy import Proxy


async def _main(address: str, port: int, socket: str) -> None:
    async with Proxy(f"unix:{socket}", host=address, port=port):
        print("open", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    pid, address, port, socket = sys.argv[1:]
    enter(int(pid))
    asyncio.run(_main(address, int(port), socket))
