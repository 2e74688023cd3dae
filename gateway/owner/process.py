"""Which process is the application: a word that changes when another process takes its place.

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
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

logger = logging.getLogger("gateway.owner")

PATIENCE: Final = 1.0  # seconds for a connection

# linux/sock_diag.h, linux/inet_diag.h
_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_DUMP: Final = 0x301  # NLM_F_REQUEST, NLM_F_DUMP
_TCP: Final = 6
_LISTEN: Final = 1 << 10
_HEAD: Final = struct.Struct("=IHHII")
_REQUEST: Final = struct.Struct("=BBBBI48s")
_ERROR: Final = 2
_DONE: Final = 3
_PORT_AT: Final = 4  # in an answer, of the port in network order
_INODE_AT: Final = 68


class Process:
    """The process that answers at `origin`, such as `http://127.0.0.1:3000`."""

    def __init__(self, origin: str) -> None:
        url = urlsplit(origin)
        self._host = url.hostname or ""
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._kernel = _Kernel.open()
        self._here = False  # it was seen to listen on this host
        self._reached: str | None = None

    @property
    def word(self) -> str | None:
        """The word for the process as it is at this moment; None: there is none that accepts connections."""
        if self._kernel is not None:
            sockets = self._kernel.listening(self._port)
            if sockets:
                self._here = True
                return " ".join(map(str, sockets))
            if self._here:
                return None
        return self._reached

    async def look(self) -> None:
        """Finds out whether an application on another host accepts connections."""
        if self._here:
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
    """The kernel, asked for sockets that listen: tens of microseconds."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    @classmethod
    def open(cls) -> _Kernel | None:
        """None where there is none that can be asked."""
        if sys.platform != "linux":
            return None
        try:
            kernel = cls(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG))
        except OSError:
            return None
        try:
            kernel.listening(1)
        except OSError as error:
            logger.info("The kernel does not say who listens (%s).", error)
            kernel.close()
            return None
        return kernel

    def listening(self, port: int) -> list[int]:
        """The numbers of the sockets that listen on a port, whatever their address. Raises OSError."""
        found: set[int] = set()
        for family in (socket.AF_INET, socket.AF_INET6):
            request = _REQUEST.pack(family, _TCP, 0, 0, _LISTEN, b"")
            self._socket.send(_HEAD.pack(_HEAD.size + len(request), _SOCK_DIAG_BY_FAMILY, _DUMP, 1, 0) + request)
            self._read(port, found)
        return sorted(found)

    def close(self) -> None:
        self._socket.close()

    def _read(self, port: int, found: set[int]) -> None:
        while True:
            data = memoryview(self._socket.recv(1 << 16))
            while data:
                length, kind, _, _, _ = _HEAD.unpack_from(data)
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    raise OSError(-struct.unpack_from("=i", data, _HEAD.size)[0], "sock_diag")
                if struct.unpack_from("!H", data, _HEAD.size + _PORT_AT)[0] == port:
                    found.add(struct.unpack_from("=I", data, _HEAD.size + _INODE_AT)[0])
                data = data[(length + 3) & ~3 :]
