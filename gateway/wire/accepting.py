"""Connections that wait to be accepted: a busy loop takes many of them in a turn, as an idle one does.

libuv accepts one connection in a turn of the loop. While turns are short, nobody waits. Where each takes 50 ms, it is
twenty a second: a client that opens thousands has everybody else's wait for a minute before their first byte is read.
So whenever libuv has accepted one, those behind it are taken in the same turn, as many as the loop can afford.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

MOST: Final = 96
"""Connections in a turn: 6 ms or so. And not all that wait: they would be kept from a worker that is less busy."""

Make = Callable[..., asyncio.Protocol]


class Accepting:
    """Stands in for a server's protocol class: it makes the connection that it is asked for, and accepts others."""

    def __init__(self, make: Make, listening: Sequence[socket.socket]) -> None:
        self._make = make
        self._listening = listening
        self._begun: set[asyncio.Task[Any]] = set()  # kept, since the loop holds tasks only weakly

    def __call__(self, **arguments: Any) -> asyncio.Protocol:
        """The connection that was accepted. `arguments`: what uvicorn makes one from."""
        for listening in self._listening:
            with suppress(OSError):  # nobody waits, there are no descriptors left, or this server has ended
                self._accept(listening, arguments)
        return self._make(**arguments)

    def _accept(self, listening: socket.socket, arguments: dict[str, Any]) -> None:
        """Raises OSError in the end."""
        loop = asyncio.get_running_loop()
        for _ in range(MOST - 1):
            accepted, _address = listening.accept()
            connecting = loop.connect_accepted_socket(lambda: self._make(**arguments), accepted)
            task = loop.create_task(connecting)
            self._begun.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._begun.discard(task)
        if not task.cancelled():
            task.exception()  # the client has left already, which is nobody's news
