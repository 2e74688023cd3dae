"""A stateful chat server, as people write it: sessions are in its memory, and a message is answered in the background.

`python -m tests.owner.chat PORT JOURNAL` serves; PORT 0 picks one, and prints it. Each write that reaches it is a line
of the journal, which all servers of a test share: that is how two owners of one session at a time are seen.

    POST /chat/ID          a message, as JSON: {"text": …, "seconds": how long its tool runs}; 202
    POST /chat/ID/abort    ends the tool
    POST /chat/ID/files    any body; 201 with its size
    GET  /chat/ID          the session, as JSON; 404 where this server has none
    GET  /chat/ID/events   the session's messages by SSE: those that are there, and those that come
    GET  /chat/ID/busy     200 while a tool runs, else 204
    POST /chat/ID/answer   an answer by SSE: a frame with an id for each text that was and is said to the session, at
                           any server, until "end"; as of an agent whose work is in a database
    GET  /chat/ID/answer   the rest of it, after Last-Event-ID
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import uvicorn

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass
class Session:
    messages: list[dict[str, Any]] = field(default_factory=list)
    tool: asyncio.Task[None] | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def busy(self) -> bool:
        return self.tool is not None and not self.tool.done()

    def say(self, **message: Any) -> None:
        self.messages.append({"pid": os.getpid(), **message})
        self.news.set()
        self.news = asyncio.Event()


class Chat:
    def __init__(self, journal: str) -> None:
        self._sessions: dict[str, Session] = {}
        self._path = journal
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        method, parts = scope["method"], scope["raw_path"].decode().split("/")
        if len(parts) < 3 or parts[1] != "chat":
            headers = {key.decode(): value.decode() for key, value in scope["headers"]}
            await _answer(send, 200, {"pid": os.getpid(), "headers": headers})
            return
        tenant = dict(scope["headers"]).get(b"run-gateway-tenant", b"").decode()
        name, rest = f"{tenant}{unquote(parts[2])}", "/".join(parts[3:])
        if rest in ("answer", "lone"):
            await self._answer(name, method, scope, receive, send)
        elif method == "POST":
            await self._write(name, rest, scope, receive, send)
        elif name not in self._sessions:
            await _answer(send, 404, {"pid": os.getpid(), "error": "no such session"})
        elif rest == "events":
            await self._events(self._sessions[name], receive, send)
        elif rest == "busy":
            await _answer(send, 200 if self._sessions[name].busy else 204, None)
        else:
            await _answer(send, 200, {"pid": os.getpid(), "messages": self._sessions[name].messages})

    async def _write(self, name: str, rest: str, scope: Any, receive: Receive, send: Send) -> None:
        self._note("begun", name)
        body = await _body(receive)
        if body is None:
            self._note("broken", name)
            return
        self._note("written", name, text=body[:80].decode(errors="replace"), said=rest == "")
        session = self._sessions.setdefault(name, Session())
        if rest == "abort":
            if session.tool is not None:
                session.tool.cancel()
            await _answer(send, 200, {"pid": os.getpid(), "aborted": session.busy})
        elif rest == "files":
            headers = {key.decode(): value.decode() for key, value in scope["headers"]}
            await _answer(send, 201, {"pid": os.getpid(), "size": len(body), "headers": headers})
        else:
            said = json.loads(body)
            session.say(text=said["text"])
            if said.get("seconds"):
                session.tool = asyncio.create_task(self._tool(name, session, said["seconds"]))
            await _answer(send, 202, {"pid": os.getpid(), "messages": len(session.messages)})

    async def _tool(self, name: str, session: Session, seconds: float) -> None:
        self._note("tool begun", name)
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            session.say(tool="aborted")
            raise
        self._note("tool done", name)
        session.say(tool="done")

    async def _events(self, session: Session, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        gone = asyncio.ensure_future(_gone(receive))
        sent = 0
        while not gone.done():
            news = session.news
            data = b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in session.messages[sent:])
            sent = len(session.messages)
            await send({"type": "http.response.body", "body": data or b": begun\n\n", "more_body": True})
            waiting = asyncio.ensure_future(news.wait())
            await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()

    async def _answer(self, name: str, method: str, scope: Any, receive: Receive, send: Send) -> None:
        self._note("asked" if method == "POST" else "asked again", name)
        await _body(receive)
        last = dict(scope["headers"]).get(b"last-event-id", b"0")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        gone = asyncio.ensure_future(_gone(receive))
        sent, texts = int(last), [""]
        while not gone.done() and texts[-1] != "end":
            texts = self._said(name) or [""]
            frames = [b"id: %d\ndata: %b\n\n" % each for each in enumerate(map(str.encode, texts), 1)][sent:]
            if texts != [""] and frames:
                sent = len(texts)
                await send({"type": "http.response.body", "body": b"".join(frames), "more_body": True})
            await asyncio.sleep(0.05)
        if not gone.done():
            gone.cancel()
            await send({"type": "http.response.body", "body": b""})

    def _said(self, name: str) -> list[str]:
        """What was said to a session, to any of the servers."""
        with open(self._path) as journal:
            lines = [json.loads(line) for line in journal if line.endswith("\n")]
        return [json.loads(line["text"])["text"] for line in lines if line["id"] == name and line.get("said")]

    def _note(self, what: str, name: str, **more: object) -> None:
        line = {"at": time.clock_gettime(time.CLOCK_MONOTONIC), "pid": os.getpid(), "id": name, "what": what, **more}
        os.write(self._journal, json.dumps(line).encode() + b"\n")


async def _body(receive: Receive) -> bytes | None:
    """None: the client has gone before its end."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(send: Send, status: int, value: object) -> None:
    body = b"" if value is None else json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers if status != 204 else []})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    sock = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    print(sock.getsockname()[1], flush=True)
    config = uvicorn.Config(Chat(sys.argv[2]), log_level="warning", lifespan="off", timeout_keep_alive=60)
    uvicorn.Server(config).run([sock])


if __name__ == "__main__":
    main()
