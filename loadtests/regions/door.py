"""A way from one network into another: a port of one region that leads to an address as seen from another.

`python -m loadtests.regions.door FROM ADDRESS PORT TO TARGET`, until it is ended. FROM and TO are processes, in whose
networks it listens and connects, or `here`. A target is `unix:/path` or `tcp://address:port`. Prints the port.
"""

from __future__ import annotations

import asyncio
import os
import sys

from loadtests.regions.network import enter
from tests.tools.proxy import Proxy

HERE = "here"


async def _main(place: str, address: str, port: int, other: str, target: str) -> None:
    here = os.getppid()
    if place != HERE:
        enter(int(place))
    async with Proxy(target, host=address, port=port) as proxy:
        if (place, other) != (HERE, HERE):
            enter(here if other == HERE else int(other))  # sockets that are there already stay where they are
        print(proxy.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    place, address, port, other, target = sys.argv[1:]
    asyncio.run(_main(place, address, int(port), other, target))
