"""An agent server that streams numbered frames with the time at which each was written: `python -m … PORT`."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import uvloop

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
)


class Answer(asyncio.Protocol):
    """One connection, one POST: `{"frames": 500, "rate": 50}`, frames a second."""

    def __init__(self) -> None:
        self._request = b""
        self._began = 0.0
        self._n = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]  # uvloop's own class

    def data_received(self, data: bytes) -> None:
        self._request += data
        _, end, body = self._request.partition(b"\r\n\r\n")
        if not end or not body.endswith(b"}"):
            return
        asked = json.loads(body)
        self._frames, self._rate = asked["frames"], asked["rate"]
        self._began = asyncio.get_running_loop().time()
        self._transport.write(HEAD)
        self._speak()

    def _speak(self) -> None:
        if self._transport.is_closing():
            return
        frame = b'data: {"type":"text-delta","id":"1","n":%d,"t":%d,"delta":"word "}\n\n' % (self._n, time.time_ns())
        self._n += 1
        self._transport.write(b"%x\r\n%b\r\n" % (len(frame), frame))
        if self._n < self._frames:
            asyncio.get_running_loop().call_at(self._began + self._n / self._rate, self._speak)
        else:
            self._transport.write(b"0\r\n\r\n")
            self._transport.close()


async def main(port: int) -> None:
    """Serves until it is killed."""
    server = await asyncio.get_running_loop().create_server(Answer, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
