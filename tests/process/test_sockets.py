"""What every connection that is accepted has from its listening socket."""

from __future__ import annotations

import socket

import pytest

from gateway.process.sockets import bind


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
