"""`python -m loadtests.siege.attacks`: one row's attacks in a process of their own, ordered by a line on stdin.

It is given less of the processors than who is attacked: an attacker brings its own, and the test is not who has more.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys

import uvloop

from gateway.wire.descriptors import raise_limit
from loadtests.siege.attacks import ATTACKS
from loadtests.siege.attacks.assault import Assault
from loadtests.siege.orders import NICE, Orders


async def attack(orders: Orders) -> None:
    assault = Assault(orders, random.Random(orders.row))
    await asyncio.gather(*[each(assault) for each in ATTACKS[orders.row]])
    print(json.dumps(assault.seen), flush=True)
    os._exit(0)  # whatever is still open is the Machines' trouble


if __name__ == "__main__":
    os.nice(NICE)
    raise_limit()
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(attack(Orders.parse(sys.stdin.readline())))
