"""The sockets to listen on, taken before anything else is started: a port in use is told first."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from gateway.process.exit_codes import Failure


@dataclass(frozen=True)
class Sockets:
    """The sockets of a Machine: its port, and the one for /metrics, when that has its own."""

    main: list[socket.socket]
    metrics: list[socket.socket]

    def __iter__(self) -> Iterator[socket.socket]:
        return iter((*self.main, *self.metrics))

    def numbers(self) -> tuple[list[int], list[int]]:
        """Their descriptors, for a process that inherits them."""
        return [sock.fileno() for sock in self.main], [sock.fileno() for sock in self.metrics]

    @classmethod
    def inherited(cls, numbers: Sequence[Sequence[int]]) -> Sockets:
        """Sockets whose numbers another process has given."""
        main, metrics = ([socket.socket(fileno=number) for number in each] for each in numbers)
        return cls(main, metrics)


# When a client that has vanished is given up: seconds until it is probed, seconds between probes, how many of those,
# and milliseconds for which it may leave unacknowledged what it was sent, longer than any reader may pause.
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4), ("TCP_USER_TIMEOUT", 120_000))
# Bytes that the kernel takes before they may leave. What a reader does not fetch is held once, by us, and is not copied
# into megabytes of the kernel's for each: 800 readers that read nothing of an event of 10 MB cost 5.6 s, not 18.9.
_UNSENT = (("TCP_NOTSENT_LOWAT", 256 << 10),)
_SOCKET_OPTIONS = [
    ((socket.SOL_SOCKET, socket.SO_KEEPALIVE), 1),
    *(
        ((socket.IPPROTO_TCP, getattr(socket, name)), value)
        for name, value in (*_KEEPALIVE, *_UNSENT)
        if hasattr(socket, name)
    ),
]


def bind(host: str, port: int) -> list[socket.socket]:
    """A bound socket for each address of the host, all on one port; not listening yet. Raises Failure."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise Failure(f"cannot listen on {host}: {error.strerror}") from error
    sockets: list[socket.socket] = []
    with ExitStack() as undo:
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            chosen = sockets[0].getsockname()[1] if sockets else port
            sock = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            try:
                _bind(sock, (address[0], chosen, *address[2:]))
            except OSError as error:
                raise Failure(f"cannot listen on {_join(str(address[0]), chosen)}: {error.strerror}") from error
            sockets.append(sock)
        undo.pop_all()
    return sockets


def check_listening(sockets: Sequence[socket.socket]) -> None:
    """Raises OSError if another process, which had bound the same port in the same moment, was quicker to listen on it:
    uvloop closes the socket then, and says nothing.
    """
    if any(sock.fileno() < 0 for sock in sockets):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _bind(sock: socket.socket, address: tuple[str | int, ...]) -> None:
    # A restart must not wait for old connections of the same port to be forgotten.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        # `::` means everything, IPv4 included; any other address means itself.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
    for option, value in _SOCKET_OPTIONS:  # a connection that is accepted here has them too
        sock.setsockopt(*option, value)
    sock.bind(address)
    sock.setblocking(False)


def address(sock: socket.socket) -> str:
    """`http://127.0.0.1:8080`"""
    host, port = sock.getsockname()[:2]
    return f"http://{_join(host, port)}"


def announcement(address: str) -> str:
    """The lines that are printed when a Machine listens: one; and, at a terminal, what a person may do now."""
    line = f"Listening on {address}"
    if not sys.stdout.isatty():
        return line
    event = """-H 'content-type: application/json' -d '{"type":"token","text":"Hello"}'"""
    return (
        f"{line}\n\nSee runs as they go on: {address}/ui\nMake one:               curl -X PUT {address}/runs/1 {event}"
        f"\nFollow it:              curl -N '{address}/runs/1?offset=-1&live=sse'\n"
    )


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
