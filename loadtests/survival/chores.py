"""What applications and operators do with the gateway while everything fails: SQL transactions, lists, wakes, webhooks.

Each chore goes on from round to round, and each round has a law of its own. What a fault excuses is no violation: a
round whose database has gone away is given up, and one that only has to come to its end is given time.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import urlencode

import asyncpg
import httpx

from loadtests.survival.clients import AGAIN, PASSING, PATIENCE
from loadtests.survival.ledger import EARLY, LOST, REPEATED, STUCK, WRONG, Findings
from loadtests.survival.pulse import Pulse
from tests.tools.database import GONE, Database

LIFE = 2  # seconds: the TTL and the lease of what a transaction writes to
WORK = LIFE + 0.7  # seconds that the transaction takes
PAUSE = 0.5  # seconds between two rounds
_NO_FAULT = ("22", "23", "40", "42")  # classes of SQLSTATE that say that a statement or the log is wrong
_ENDED = (asyncpg.NoDataFoundError, asyncpg.ObjectNotInPrerequisiteStateError)


class Chore:
    """One of them. `rounds` counts those that came to their verdict. `patience`: seconds in which what has to happen
    happens, not counting those of the `pulse` in which nobody could append.
    """

    name = ""

    def __init__(
        self, http: httpx.AsyncClient, doors: Sequence[str], database: Database, rng: random.Random, findings: Findings,
        patience: float, pulse: Pulse,
    ) -> None:  # fmt: skip
        self.rounds = 0
        self._tries = 0
        self._http = http
        self._doors = list(doors)
        self._database = database
        self._rng = rng
        self._findings = findings
        self._patience = patience
        self._pulse = pulse

    async def run(self, over: Callable[[], bool]) -> None:
        """Returns after the round that is under way when it is over."""
        async with self._open():
            while not over():
                try:
                    async with self._pulse.patience(4 * self._patience):
                        self.rounds += await self._round(f"{self.name}-{secrets.token_hex(6)}")
                except GONE as error:
                    if getattr(error, "sqlstate", "")[:2] in _NO_FAULT:
                        self._findings.add(WRONG, f"{self.name}: {error}")
                    await asyncio.sleep(AGAIN)
                except TimeoutError:
                    self._findings.add(STUCK, f"{self.name}: no end of a round within {4 * self._patience:g} s")
                await asyncio.sleep(PAUSE)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        yield

    async def _round(self, name: str) -> bool:
        """Whether there was a verdict."""
        raise NotImplementedError

    async def _ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        also: Sequence[int] = (),
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """The answer of whichever Machine gives one: a success, or one of `also`. `_tries`: how often one was asked."""
        sent = b"" if body is None else json.dumps(body).encode()
        self._tries = 0
        while True:
            self._tries += 1
            url = self._rng.choice(self._doors) + path
            try:
                response = await self._http.request(
                    method, url, content=sent, headers={"content-type": "application/json", **(headers or {})},
                    timeout=PATIENCE,
                )  # fmt: skip
            except httpx.RequestError:
                pass
            else:
                if response.is_success or response.status_code in also:
                    return response
                if response.status_code not in PASSING:
                    self._findings.add(
                        WRONG, f"{path}: {method} was answered {response.status_code}: {response.text[:200]}"
                    )
                    return response
            await asyncio.sleep(AGAIN * self._rng.uniform(0.5, 1.5))

    async def _eventually(self, look: Callable[[], Awaitable[bool]], note: str) -> None:
        """Finds a violation unless it comes true in time."""
        end = self._pulse.served + self._patience
        while not await look():
            if self._pulse.served > end:
                self._findings.add(STUCK, note)
                return
            await asyncio.sleep(0.1)


class Transaction(Chore):
    """An application commits an event after work that takes longer than the stream's TTL and its run's lease."""

    name = "transaction"

    async def _round(self, name: str) -> bool:
        path = f"runs/{name}"
        async with self._database.connection() as connection:
            await connection.execute("SELECT run_gateway.create($1, ttl => $2, lease => $3)", path, LIFE, LIFE)
            try:
                async with connection.transaction():
                    await connection.execute("SELECT run_gateway.append($1, $2)", path, '{"n": 0}')
                    await asyncio.sleep(WORK)
                    sent = time.monotonic()
            except _ENDED:
                return False  # the database had been away: its end came before
            await self._there(path, [0], sent)
            # A look at leases comes every second: if one took the call for the last sign of life, it has come by now.
            await asyncio.sleep(max(0.0, sent + 1.5 - time.monotonic()))
            try:
                await connection.execute("SELECT run_gateway.append($1, $2)", path, '{"n": 1}')
            except _ENDED as error:
                if time.monotonic() < sent + LIFE:
                    self._findings.add(EARLY, f"{path}: ended less than {LIFE} s after a COMMIT ({error})")
                return True
            await self._there(path, [0, 1], time.monotonic())
        await self._eventually(
            lambda: self._gone(path), f"{path}: has a TTL of {LIFE} s, and is there after {self._patience:g} s"
        )
        return True

    async def _there(self, path: str, numbers: list[int], since: float) -> None:
        """Readers are given what was committed, as long as its end cannot have come."""
        while time.monotonic() < since + LIFE:
            try:
                response = await self._http.get(f"{self._rng.choice(self._doors)}/{path}?offset=-1", timeout=LIFE)
            except httpx.RequestError:
                continue
            if time.monotonic() >= since + LIFE:
                return
            if response.status_code in (404, 410) or (
                response.status_code == 200 and [event.get("n") for event in response.json()][: len(numbers)] != numbers
            ):
                self._findings.add(LOST, f"{path}: was committed, and a reader is answered {response.status_code}")
            if response.status_code not in PASSING:
                return
            await asyncio.sleep(AGAIN)

    async def _gone(self, path: str) -> bool:
        return (await self._ask("HEAD", f"/{path}", also=(404,))).status_code == 404


class Lists(Chore):
    """Runs are made at several Machines, and listed page by page while others are made. `late`: seconds that another
    Machine's may take to be in a list.
    """

    name = "lists"
    late = 0.0

    async def _round(self, name: str) -> bool:
        async with asyncio.TaskGroup() as tasks:
            for n in range(5):
                tasks.create_task(self._make(name, n))
        more = asyncio.create_task(self._make(name, 5))
        listed: list[str] = []
        await asyncio.sleep(self.late)
        query = {"metadata.round": name, "limit": "2"}
        try:
            while True:
                page = (await self._ask("GET", f"/runs?{urlencode(query)}", also=(400,))).json()
                if "runs" not in page and "source" not in query:
                    query["source"] = "gateway"  # the list is a Flue app's, which knows no metadata
                    continue
                listed += [record["runId"] for record in page["runs"]]
                if "nextCursor" not in page:
                    break
                query["cursor"] = page["nextCursor"]
        finally:
            await more
        missing = {f"{name}-{n}" for n in range(5)} - set(listed)
        self._findings.add(LOST, f"{name}: {sorted(missing)} were made and are in no page of the list", len(missing))
        self._findings.add(REPEATED, f"{name}: runs are listed twice", len(listed) - len(set(listed)))
        return True

    async def _make(self, name: str, n: int) -> None:
        await self._ask("POST", "/runs", {"id": f"{name}-{n}", "metadata": {"round": name}})


class Wakes(Chore):
    """A worker that is woken by pull-wake, whose wake stream is deleted and made again."""

    name = "wakes"
    _late = False  # whether a DELETE may still arrive

    async def _round(self, name: str) -> bool:
        await self._make(f"{name}-wake")
        subscription = f"/v1/stream/__ds/subscriptions/{name}"
        asked = {"type": "pull-wake", "pattern": f"{name}/*", "wake_stream": f"{name}-wake"}
        await self._ask("PUT", subscription, asked)
        await self._make(f"{name}/a")
        await self._ask("DELETE", f"/v1/stream/{name}-wake", also=(404,))
        self._late = self._tries > 1  # one that was given up may still arrive, and delete what is made below
        await self._ask("POST", f"/v1/stream/{name}/a", {"n": 0})
        await asyncio.sleep(self._rng.uniform(0, 2))  # a wake is tried meanwhile, and cannot be written
        await self._make(f"{name}-wake")
        await self._eventually(
            lambda: self._woken(name), f"{name}: has work, and nobody was woken in {self._patience:g} s"
        )
        await self._ask("DELETE", subscription)
        return True

    async def _make(self, path: str) -> None:
        await self._ask("PUT", f"/v1/stream/{path}")

    async def _woken(self, name: str) -> bool:
        also = (404,) if self._late else ()
        answer = await self._ask("GET", f"/v1/stream/{name}-wake?offset=-1", also=also)
        if answer.status_code == 404:
            await self._make(f"{name}-wake")
            return False
        return answer.content != b"[]"


class Hooks(Chore):
    """A webhook that is told of every event, by whichever Machine is there."""

    name = "hooks"

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        self._told: dict[str, str] = {}  # the furthest offset that it was told of each path
        async with await asyncio.start_server(self._receive, "127.0.0.1", 0) as server:
            self._port = server.sockets[0].getsockname()[1]
            yield

    async def _round(self, name: str) -> bool:
        subscription = f"/v1/stream/__ds/subscriptions/{name}"
        hook = {"url": f"http://127.0.0.1:{self._port}/"}
        await self._ask("PUT", subscription, {"type": "webhook", "pattern": f"{name}/*", "webhook": hook})
        for path in (f"{name}/a", f"{name}/b"):
            await self._ask("PUT", f"/v1/stream/{path}")
            answer = await self._ask("POST", f"/v1/stream/{path}", {"n": 0})
            offset = answer.headers["stream-next-offset"]
            await self._eventually(
                partial(self._knows, path, offset),
                f"{path}: its webhook was not told of {offset} within {self._patience:g} s",
            )
        await self._ask("DELETE", subscription)
        return True

    async def _knows(self, path: str, offset: str) -> bool:
        return self._told.get(path, "") >= offset

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
            for stream in json.loads(await reader.readexactly(length))["streams"]:
                path = stream["path"].lstrip("/")
                self._told[path] = max(self._told.get(path, ""), stream["tail_offset"])
            body = b'{"done": true}'
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body))
            await writer.drain()
        except (OSError, EOFError, ValueError):
            pass  # the Machine was killed: it comes again
        finally:
            writer.close()


CHORES: tuple[type[Chore], ...] = (Transaction, Transaction, Transaction, Lists, Wakes, Hooks)
