"""A transport without a socket's bytes: what is written is kept."""

from __future__ import annotations

import asyncio
import socket
from typing import Any


class Wire(asyncio.Transport):
    """Never full. Its socket is connected to nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closing = False
        self._socket = socket.socket()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._socket if name == "socket" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def write_eof(self) -> None: ...
    def close(self) -> None:
        self.closing = True
        self._socket.close()

    def abort(self) -> None:
        self.close()

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
