"""`run-gateway demo`: a recorded run, two Machines, one killed in the middle; what was lost and repeated.

Everything is real: processes, Postgres, HTTP, SIGKILL. The account at the end is a comparison with the
recording.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import tempfile
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from gateway.cli.demo_relay import RELAY, Agent, show
from gateway.cli.progress import Progress, progress
from gateway.client import Follower, Producer, Session, client, elements, stream_url
from gateway.process.exit_codes import Failure, finish
from gateway.process.machine import Machine, MachineFailed

WIDTH = 60
MIDDLE = 26
"""Events after which A is killed: in the middle of a sentence, while others are on their way."""


@click.command(short_help="Kill a Machine that is being read, and lose nothing.")
@click.option(
    "--speed",
    type=click.FloatRange(0.01, 1000),
    default=1.0,
    show_default=True,
    help="How many times faster than it was recorded.",
)
@click.option(
    "--relay", is_flag=True, help="A chat before an agent server that only streams: reload it, kill a Machine."
)
def demo(speed: float, relay: bool) -> None:
    """Lose a Machine and no event: replay a recorded run over two Machines and kill the one being read.

    Uses an embedded Postgres in a temporary folder. The exit code is 0 only if nothing was lost or repeated.
    """
    finish(_demo_relay(speed) if relay else _demo(speed))


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event of the recording, and the seconds from the first one to it."""

    text: str
    at: float


def recording() -> list[Recorded]:
    """The chat run that is shipped with the package, event by event as it was stored."""
    events = json.loads((files("gateway") / "recordings" / "chat.json").read_text())
    times = [datetime.fromisoformat(event["timestamp"]) for event in events]
    return [
        Recorded(json.dumps(event, separators=(",", ":"), ensure_ascii=False), (time - times[0]).total_seconds())
        for event, time in zip(events, times, strict=True)
    ]


async def _demo(speed: float) -> None:
    events, run = recording(), f"demo-{uuid.uuid4().hex[:8]}"
    with _terminable():
        async with _machines() as (a, b), client() as http:
            session = Session(http)
            takes = events[-1].at / speed
            click.echo(f"Run {run}: {len(events)} recorded events in {takes:.0f} s, written at B, followed at A\n")
            producer = Producer(session, stream_url(b.url, run))
            await producer.create()
            killed = asyncio.Event()
            writing = asyncio.create_task(_replay(producer, events, speed, killed))
            try:
                with progress("events", beside=True) as told:
                    told.whole = len(events)
                    read = await _follow(session, run, a, b, killed, told)
                await writing
            finally:
                writing.cancel()
                await asyncio.wait([writing])
    compare([event.text for event in events], read)


async def _demo_relay(speed: float) -> None:
    agent = Agent(speed)
    with _terminable():
        async with agent.serving() as url, _machines(GATEWAY_UPSTREAM=url, GATEWAY_RELAY=RELAY) as (a, b):
            await show(a, b, agent)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    # Ctrl-C cancels the task by itself; SIGTERM would end this process and leave the others.
    loop, task, asked = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()
    assert task is not None, "inside a task"

    def terminate() -> None:
        asked.set()
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        yield
    except asyncio.CancelledError:
        if asked.is_set():
            raise SystemExit(128 + signal.SIGTERM) from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


@contextlib.asynccontextmanager
async def _machines(**env: str) -> AsyncIterator[tuple[Machine, Machine]]:
    from gateway.embedded import EmbeddedPostgres, EmbeddedPostgresError  # only where it is needed

    with tempfile.TemporaryDirectory(prefix="run-gateway-demo-") as folder:
        try:
            async with EmbeddedPostgres(Path(folder)) as postgres:
                a, b = (Machine({"DATABASE_URL": postgres.dsn, **env}) for _ in "AB")
                try:
                    await asyncio.gather(a.launch(), b.launch())
                    click.echo(f"Postgres {postgres.version}, embedded, in {folder}")
                    click.echo(f"Machine A {a.url} (process {a.pid})\nMachine B {b.url} (process {b.pid})")
                    yield a, b
                finally:
                    await asyncio.gather(a.end(), b.end())
        except (EmbeddedPostgresError, MachineFailed) as error:
            raise Failure(str(error)) from error


async def _replay(producer: Producer, events: list[Recorded], speed: float, killed: asyncio.Event) -> None:
    """The last event comes when A has been killed, however far behind its reader was: there is more to come at B."""
    clock = asyncio.get_running_loop().time
    began = clock()
    for event in events:
        await asyncio.sleep(began + event.at / speed - clock())
        if event is events[-1]:
            await killed.wait()
        await producer.append([event.text.encode()])
    await producer.close()


async def _follow(
    session: Session, run: str, a: Machine, b: Machine, killed: asyncio.Event, told: Progress
) -> list[str]:
    clock = asyncio.get_running_loop().time
    began, read = clock(), list[str]()
    follower = Follower(session, [stream_url(machine.url, run) for machine in (a, b)])
    async for step in follower:
        name = "A" if follower.url.startswith(f"{a.url}/") else "B"
        for event in (event for data in step.data for event in elements(data)):
            read.append(event)
            click.echo(f"{clock() - began:6.2f} s  {name} {len(read):3}/{told.whole}  {_summary(json.loads(event))}")
            told.add(1)
        if len(read) >= MIDDLE and not killed.is_set():
            await a.kill()
            killed.set()
            click.echo(f"{clock() - began:6.2f} s  A killed with SIGKILL; going on at B from {follower.offset}")
    return read


def _summary(event: dict[str, Any]) -> str:
    words = event.get("delta") or event.get("text") or event.get("message") or event.get("toolName") or ""
    text = f"{event.get('type', '?'):16} {words if isinstance(words, str) else words.get('role', '')}"
    return text.rstrip() if len(text) <= WIDTH else f"{text[:WIDTH]}…"


def compare(written: list[str], read: list[str]) -> None:
    expected, got = Counter(map(_canonical, written)), Counter(map(_canonical, read))
    lost, repeated = (expected - got).total(), (got - expected).total()
    click.echo(f"\nwritten {len(written)}, read {len(read)}: lost {lost}, repeated {repeated}")
    if lost or repeated:
        raise Failure("events were lost or repeated")
    if list(map(_canonical, written)) != list(map(_canonical, read)):
        raise Failure("events came out of order")


def _canonical(event: str) -> str:
    return json.dumps(json.loads(event), sort_keys=True)
