"""An agent server that answers a POST with a stream and knows nothing of resuming; tests say when it says what.

`python -m tests.relay.agent_server 0` serves all dialects of dialects.py and prints its port. A request belongs to the
case that its body names, anywhere in it: `case-1f`. The case's script is written meanwhile, step by step, at
`POST /control/<case>`; each call plays it from its first step, as a model would answer again, and is counted.
`GET /control/<case>?calls=1` waits until there have been so many, `?left=1` until so many clients have gone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import uvicorn

from tests.relay.dialects import DECORATIONS, DIALECTS, Dialect, Turn

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CASE = re.compile(rb"case-[0-9a-f]+")
ROUTES = [
    (re.compile(re.sub(r"\{thread\}", r"(?P<thread>[^/]+)", dialect.route)), dialect) for dialect in DIALECTS.values()
]
RUN = re.compile(r"/threads/[^/]+/runs/run-(?P<case>case-[0-9a-f]+)(?P<cancel>/cancel)?")


class Cut(Exception):
    """The connection ends in the middle, as the script has it."""


class Case:
    """What one answer is to be, and what has become of it."""

    def __init__(self) -> None:
        self.script: list[dict[str, Any]] = []
        self.decoration = "nothing"
        self.stopped = False
        self.seen = {"calls": 0, "left": 0, "done": 0}
        self.asked: list[Any] = []
        self.news = asyncio.Condition()

    async def note(self, what: str) -> None:
        async with self.news:
            self.seen[what] += 1
            self.news.notify_all()

    async def step(self, number: int) -> dict[str, Any]:
        """The script's step of this number, as soon as it is written."""
        async with self.news:
            await self.news.wait_for(lambda: self.stopped or len(self.script) > number)
        return {"finish": True} if self.stopped else self.script[number]


class Agent:
    """The ASGI application. `page`: a folder whose files it serves to browsers, as an app does."""

    def __init__(self, page: Path | None) -> None:
        self._cases: dict[str, Case] = {}
        self._page = page
        self._unknown: list[str] = []

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        method, path = scope["method"], scope["path"]
        body = await _body(receive)
        if path.startswith("/control/"):
            await self._control(method, path, dict(parse_qsl(scope["query_string"].decode())), body, send)
        elif (found := _route(path)) and found[0].method == method:
            asked = body or json.dumps(dict(parse_qsl(scope["query_string"].decode()))).encode()
            await self._stream(*found, asked, receive, send)
        elif run := RUN.fullmatch(path):
            await self._run(method, run, send)
        elif method == "GET" and self._page is not None and (file := self._page / path[1:]).is_file():
            kind = b"text/html" if file.suffix == ".html" else b"text/javascript"
            await _answer(send, 200, file.read_bytes(), kind)
        else:
            self._unknown.append(f"{method} {path}")
            await _answer(send, 404, b'{"error":"not here"}')

    async def _control(self, method: str, path: str, query: dict[str, str], body: bytes, send: Send) -> None:
        name = path.removeprefix("/control/")
        if name == "unknown":
            return await _answer(send, 200, json.dumps(self._unknown).encode())
        case = self._cases.setdefault(name, Case())
        if method == "POST":
            steps = json.loads(body)
            async with case.news:
                case.script += [step for step in steps if "decoration" not in step]
                case.decoration = next((s["decoration"] for s in steps if "decoration" in s), case.decoration)
                case.news.notify_all()
        async with case.news:
            await case.news.wait_for(lambda: all(case.seen[what] >= int(least) for what, least in query.items()))
        return await _answer(send, 200, json.dumps({**case.seen, "asked": case.asked}).encode())

    async def _run(self, method: str, run: re.Match[str], send: Send) -> None:
        """The status of a LangGraph run, and its cancel."""
        case = self._cases.setdefault(run["case"], Case())
        if run["cancel"]:
            async with case.news:
                case.stopped = True
                case.news.notify_all()
        running = case.seen["calls"] > case.seen["done"] + case.seen["left"]
        await _answer(send, 200, json.dumps({"status": "running" if running else "success"}).encode())

    async def _stream(self, dialect: Dialect, thread: str, body: bytes, receive: Receive, send: Send) -> None:
        found = CASE.search(body)
        if found is None:
            return await _answer(send, 400, b'{"error":"no case"}')
        name = found[0].decode()
        case = self._cases.setdefault(name, Case())
        case.asked.append(json.loads(body))
        turn = Turn(case.asked[-1].get("runId") or f"run-{name}", thread)
        await case.note("calls")
        playing = asyncio.ensure_future(_play(case, dialect, turn, send))
        leaving = asyncio.ensure_future(_gone(receive))
        await asyncio.wait((playing, leaving), return_when=asyncio.FIRST_COMPLETED)
        ended = playing.done()
        playing.cancel()
        leaving.cancel()
        await asyncio.gather(playing, leaving, return_exceptions=True)
        await case.note("done" if ended else "left")
        if ended:
            playing.result()
        return None


async def _play(case: Case, dialect: Dialect, turn: Turn, send: Send) -> None:
    names = {"thread": turn.thread, "run": turn.run}
    headers = [(key.encode(), value.format(**names).encode()) for key, value in dialect.headers]
    headers += [(b"content-type", dialect.media_type.encode()), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    decorate = DECORATIONS[case.decoration]
    frames, sent = dialect.opening(turn), 0
    number = 0
    while True:
        data = b""
        for each in frames:
            data += decorate(each, sent)
            sent += 1
        await send({"type": "http.response.body", "body": data, "more_body": True})
        step = await case.step(number)
        number += 1
        match step:
            case {"say": list(texts)}:
                frames = [dialect.text(turn, text) for text in texts]
            case {"raw": str(raw)}:
                await send({"type": "http.response.body", "body": raw.encode("latin-1"), "more_body": True})
                frames = []
            case {"cut": True}:
                raise Cut
            case {"end": True}:
                break
            case _:
                data = b"".join(decorate(each, sent + n) for n, each in enumerate(dialect.closing(turn)))
                await send({"type": "http.response.body", "body": data, "more_body": True})
                break
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _route(path: str) -> tuple[Dialect, str] | None:
    for pattern, dialect in ROUTES:
        if found := pattern.fullmatch(path):
            return dialect, found.groupdict().get("thread", "thread")
    return None


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(send: Send, status: int, body: bytes, kind: bytes = b"application/json") -> None:
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """`python -m tests.relay.agent_server PORT [folder of the page]`: serves until it is killed; port 0 is any."""
    page = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    logging.disable()  # it is meant to break off
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", int(sys.argv[1])))
        sock.listen(1024)
        config = uvicorn.Config(Agent(page), log_config=None, access_log=False, lifespan="off", timeout_keep_alive=600)
        print(sock.getsockname()[1], flush=True)
        uvicorn.Server(config).run(sockets=[sock])


if __name__ == "__main__":
    main()
