"""Those who do nothing wrong: writers and readers at a steady pace, whose every request is timed and judged.

They are the survival harness' own, with its accounts and its judges; these stay at one Machine while it answers.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from loadtests.people.continuity import Batch
from loadtests.siege.times import Times
from loadtests.survival.clients import AGAIN, PASSING, PATIENCE, Seen
from loadtests.survival.ledger import STUCK, WRONG, Findings, Read
from loadtests.survival.readers import Reader
from loadtests.survival.writers import Writer

EVERY = 0.1  # seconds between two events of a pulse
LOOK = 0.2  # seconds between other requests
END_PATIENCE = 60.0  # seconds that the last event, and the end, may take

ACKNOWLEDGED, BY_SSE, BY_LONG_POLL = "append acknowledged", "event seen by SSE", "event seen by long-poll"
READ, CREATED, WOKEN, HEALTHY = "page read", "stream created", "webhook called", "/health answered"


class Pulse(Writer):
    """An idempotent producer of small events, one at a time."""

    def __init__(
        self, http: httpx.AsyncClient, doors: Sequence[str], rng: random.Random, seen: Seen, times: Times,
        over: Callable[[], bool],
    ) -> None:  # fmt: skip
        super().__init__(http, doors, f"/runs/pulse-{secrets.token_hex(6)}", rng, seen, 0.0, retried=True)
        self.begun: dict[int, float] = {}  # when events were sent
        self._times = times
        self._over = over

    async def _append_for(self, hand: list[int]) -> None:
        while not self._over():
            await self._append(hand)
            await asyncio.sleep(EVERY * self._rng.uniform(0.5, 1.5))

    async def _append(self, hand: list[int]) -> None:
        number = self.account.sent
        body = json.dumps([{"run": self.path, "n": number}]).encode()
        self.account.sent += 1
        self.begun[number] = began = time.monotonic()
        while await self._send("POST", self._headers(), body) is None:
            await self._move()
        self._seq += 1
        hand.append(number)
        self._seen.acknowledged += 1
        self._times.add(ACKNOWLEDGED, began, time.monotonic())


class Steady(Reader):
    """Reads from the beginning to the end, and stays where it is."""

    def __init__(
        self, http: httpx.AsyncClient, doors: Sequence[str], run: Pulse, rng: random.Random, seen: Seen, mode: str,
        times: Times,
    ) -> None:  # fmt: skip
        super().__init__(http, doors, run, rng, seen, mode)
        self._pulse = run
        self._times = times

    async def run(self) -> None:
        visit = self._follow if self.account.mode == "sse" else self._poll
        while not self.account.ended:
            try:
                await visit()
            except httpx.RequestError:
                await self._move()

    def _take(self, batch: Batch) -> None:
        now, kind = time.monotonic(), BY_SSE if self.account.mode == "sse" else BY_LONG_POLL
        for event in batch.events:
            self._times.add(kind, self._pulse.begun[event["n"]], now)
        super()._take(batch)


@dataclass
class Honest:
    """`pulses` runs with two readers each; streams that are created, pages that are read, a webhook that is called."""

    doors: Sequence[str]
    key: str
    rng: random.Random
    findings: Findings
    pulses: int
    times: Times = field(default_factory=Times)
    seen: Seen = field(default_factory=Seen)
    over: bool = False

    async def work(self) -> None:
        """Until `over`; then everything is judged."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        headers = {"authorization": f"Bearer {self.key}"}
        async with (
            httpx.AsyncClient(limits=limits, trust_env=False, headers=headers) as http,
            hooked(http, self) as called,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(self.pulses):
                tasks.create_task(self._pulse(http))
            tasks.create_task(self._look(http))
            tasks.create_task(self._wake(http, called))
        for note in self.seen.wrong:
            self.findings.add(WRONG, note)

    async def insist(self, http: httpx.AsyncClient, method: str, path: str, content: bytes = b"") -> httpx.Response:
        """The answer, however often it is asked for. Raises httpx.HTTPStatusError for one that is for good."""
        end = time.monotonic() + END_PATIENCE
        while True:
            try:
                response = await http.request(
                    method, self.rng.choice(self.doors) + path, content=content, timeout=PATIENCE,
                    headers={"content-type": "application/json"},
                )  # fmt: skip
                if response.status_code not in PASSING or time.monotonic() > end:
                    return response.raise_for_status()
                self.seen.refusals += 1
            except httpx.RequestError:
                self.seen.cuts += 1
                if time.monotonic() > end:
                    raise
            await asyncio.sleep(AGAIN)

    async def _pulse(self, http: httpx.AsyncClient) -> None:
        pulse = Pulse(http, self.doors, self._chance(), self.seen, self.times, lambda: self.over)
        readers = [
            Steady(http, self.doors, pulse, self._chance(), self.seen, mode, self.times)
            for mode in ("sse", "long-poll")
        ]
        await pulse.create()
        reading = [asyncio.create_task(reader.run()) for reader in readers]
        log = Read("catch-up")
        try:
            await pulse.write()
            async with asyncio.timeout(END_PATIENCE):
                await asyncio.gather(*reading)
                log = await pulse.log()
        except TimeoutError:
            self.findings.add(STUCK, f"{pulse.path} was not read within {END_PATIENCE:g} s of its end")
        finally:
            for task in reading:
                task.cancel()
        self.findings.include(pulse.judge(log, [reader.account for reader in readers]))

    async def _look(self, http: httpx.AsyncClient) -> None:
        """Creates streams, reads pages, asks for `/health`."""
        number = 0
        while not self.over:
            path = f"/runs/looked-{number}"
            number += 1
            for kind, method, target, content in (
                (CREATED, "PUT", path, b'[{"n": 0}]'),
                (READ, "GET", f"{path}?offset=-1", b""),
                (HEALTHY, "GET", "/health", b""),
            ):
                began = time.monotonic()
                try:
                    await self.insist(http, method, target, content)
                except httpx.HTTPError as error:
                    self.findings.add(WRONG, f"{method} {target}: {error!r}")
                self.times.add(kind, began, time.monotonic())
            await asyncio.sleep(LOOK * self.rng.uniform(0.5, 1.5))

    async def _wake(self, http: httpx.AsyncClient, called: asyncio.Queue[int]) -> None:
        """One event after the other, each when the worker has been woken for the last one."""
        number = 0
        while not self.over:
            number += 1
            began = time.monotonic()
            await self.insist(http, "POST", "/v1/stream/hooked/1", b'{"n": %d}' % number)
            try:
                async with asyncio.timeout(END_PATIENCE):
                    while await called.get() < number:
                        pass
            except TimeoutError:
                self.findings.add(STUCK, f"a webhook was not called within {END_PATIENCE:g} s")
                return
            self.times.add(WOKEN, began, time.monotonic())
            await asyncio.sleep(LOOK * self.rng.uniform(0.5, 1.5))

    def _chance(self) -> random.Random:
        return random.Random(self.rng.random())


@asynccontextmanager
async def hooked(http: httpx.AsyncClient, honest: Honest) -> AsyncIterator[asyncio.Queue[int]]:
    """A worker on this host, subscribed to `hooked/*`: how far the stream had come at each wake."""
    called: asyncio.Queue[int] = asyncio.Queue()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).lower():
                length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
                wake = json.loads(await reader.readexactly(length))
                called.put_nowait(max(int(stream["tail_offset"].rpartition("_")[2]) for stream in wake["streams"]))
                writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{"done":true}')
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        await honest.insist(http, "PUT", "/v1/stream/hooked/1")
        asked = {"type": "webhook", "pattern": "hooked/*", "webhook": {"url": f"http://127.0.0.1:{port}/wake"}}
        target = "/v1/stream/__ds/subscriptions/worker"
        await honest.insist(http, "PUT", target, json.dumps(asked).encode())
        yield called
        server.close()
