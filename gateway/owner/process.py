"""The identity of the application's process: a word that changes when another process takes its place.

Where the application is on this host, that is the kernel's number of the socket on which it listens, which anybody may
ask for (Linux, sock_diag(7)) and which is another one for another process. Elsewhere it is only known whether the
application accepts connections.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

logger = logging.getLogger("gateway.owner")

PATIENCE: Final = 1.0  # seconds for a connection

# linux/sock_diag.h, linux/inet_diag.h
_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_REQUEST: Final = 1  # NLM_F_REQUEST: for one socket, the one to which a connection would go
_TCP: Final = 6
_ANY_STATE: Final = 0xFFFFFFFF
_LISTENS: Final = 10
_HEAD: Final = struct.Struct("=IHHII")
_QUESTION: Final = struct.Struct("=BBBBI2s2s16s16sI8s")
_NO_COOKIE: Final = b"\xff" * 8
_ERROR: Final = 2
_STATE_AT: Final = _HEAD.size + 1
_INODE: Final = struct.Struct("=I")
_INODE_AT: Final = _HEAD.size + 68


class Process:
    """The process that answers at `origin`, such as `http://127.0.0.1:3000`."""

    def __init__(self, origin: str) -> None:
        url = urlsplit(origin)
        self._host = url.hostname or ""
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._kernel: _Kernel | None = None
        self._found = False
        self._reached: str | None = None

    @property
    def word(self) -> str | None:
        """The word for the process as it is at this moment; None: there is none that accepts connections."""
        return self._reached if self._kernel is None else self._kernel.listening()

    async def look(self) -> None:
        """Finds out where the application is, once; and, if on another host, whether it accepts connections."""
        if not self._found:
            with suppress(OSError):
                found = await asyncio.get_running_loop().getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
                self._kernel = _Kernel.open([address[4][0] for address in found], self._port)
                self._found = True
        if self._kernel is not None:
            return
        self._reached = None
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                _, writer = await asyncio.open_connection(self._host, self._port)
            writer.close()
            self._reached = "elsewhere"

    def close(self) -> None:
        if self._kernel is not None:
            self._kernel.close()


class _Kernel:
    """The kernel, asked which socket listens at one of these addresses: some ten microseconds for each."""

    def __init__(self, sock: socket.socket, questions: Sequence[bytes]) -> None:
        self._socket = sock
        self._questions = questions

    @classmethod
    def open(cls, addresses: Sequence[str | int], port: int) -> _Kernel | None:
        """None where they are not of this host, or the kernel cannot be asked."""
        if sys.platform != "linux" or not all(_is_here(str(address)) for address in addresses):
            return None
        try:
            kernel = cls(
                socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG),
                [_question(str(address), port) for address in addresses],
            )
        except OSError:
            return None
        try:
            kernel.ask()
        except OSError as error:
            logger.info("The kernel does not say who listens (%s).", error)
            kernel.close()
            return None
        return kernel

    def listening(self) -> str | None:
        """The numbers of these sockets, as one word; None: there is none."""
        try:
            numbers = self.ask()
        except OSError:
            return None
        return " ".join(map(str, sorted(numbers))) or None

    def ask(self) -> set[int]:
        """The numbers of these sockets. Raises OSError."""
        found: set[int] = set()
        for question in self._questions:
            self._socket.send(question)
            answer = self._socket.recv(8192)
            kind = _HEAD.unpack_from(answer)[1]
            if kind == _SOCK_DIAG_BY_FAMILY and answer[_STATE_AT] == _LISTENS:
                found.add(_INODE.unpack_from(answer, _INODE_AT)[0])
            elif kind == _ERROR:
                number = -struct.unpack_from("=i", answer, _HEAD.size)[0]
                if number != 2:  # ENOENT: none listens
                    raise OSError(number, "sock_diag")
        return found

    def close(self) -> None:
        self._socket.close()


def _question(address: str, port: int) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    source = socket.inet_pton(family, address)
    to = port.to_bytes(2, "big")
    body = _QUESTION.pack(family, _TCP, 0, 0, _ANY_STATE, to, b"\0\0", source, b"", 0, _NO_COOKIE)
    return _HEAD.pack(_HEAD.size + len(body), _SOCK_DIAG_BY_FAMILY, _REQUEST, 1, 0) + body


def _is_here(address: str) -> bool:
    """Whether an address is one of this host's."""
    with suppress(OSError):
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
        return True
    return False
