"""What every connection that is accepted has from its listening socket; and two who want one port in one moment."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvloop

from gateway.process.exit_codes import Failure
from gateway.process.metrics_port import metrics_port
from gateway.process.server import serve
from gateway.process.signals import Stop
from gateway.process.sockets import Sockets, bind, check_listening
from gateway.settings import load


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="this system has no such limit")
def test_the_kernel_takes_little_for_who_reads_nothing() -> None:
    """What a reader does not fetch stays with us, where many share it: see `fanout.crowd`."""
    (listening,) = bind("127.0.0.1", 0)
    with listening, socket.socket() as reader:
        listening.setblocking(True)
        listening.listen()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(listening.getsockname())
        accepted, _ = listening.accept()
        with accepted:
            accepted.setblocking(False)
            taken = 0
            while True:
                try:
                    taken += accepted.send(bytes(1 << 16))
                except BlockingIOError:
                    break
            assert taken < 1 << 20


def test_who_is_later_at_a_port_is_told() -> None:
    (first,) = bind("127.0.0.1", 0)
    port = first.getsockname()[1]
    (second,), (third,) = bind("127.0.0.1", port), bind("127.0.0.1", port)

    async def both() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, sock=first)
        check_listening([first])
        await loop.create_server(asyncio.Protocol, sock=second)  # uvloop says nothing
        with pytest.raises(OSError, match="Address already in use"):
            check_listening([first, second])
        with pytest.raises(Failure, match=f"cannot listen on http://127.0.0.1:{port} for metrics: Address already"):
            async with metrics_port(None, None, [third]):  # type: ignore[arg-type]  # it comes to no scrape
                pass
        server.close()

    with third, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(both())


async def test_a_machine_that_is_later_at_its_port_does_not_serve(database_url: str) -> None:
    (first,) = bind("127.0.0.1", 0)
    port = first.getsockname()[1]
    (second,) = bind("127.0.0.1", port)
    first.listen()

    async def later() -> None:
        await serve(load(database_url=database_url, port=port), database_url, Sockets([second], []), Stop())

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(later())

    with first, pytest.raises(Failure, match=f"cannot listen on http://127.0.0.1:{port}: Address already in use"):
        await asyncio.to_thread(run)
