"""`python -m loadtests.probes.fold`: what a late reader of a long chat is sent, and how soon it has it, with `fold=`.

One Machine over a Postgres of its own, on loopback. Whatever is started is ended.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

import click
import httpx

from gateway.embedded import EmbeddedPostgres
from gateway.process.machine import Machine

FOLD = "fold=type,id:text"
BATCH = 500  # events of one POST
WORDS = ("the", "gateway", "stands", "between", "both", "and", "keeps", "what", "an", "agent", "says")


def chat(events: int, message: int) -> list[dict[str, str]]:
    """Token events of messages that have so many each."""
    words = (WORDS[n * 7 % len(WORDS)] for n in range(events))
    return [{"type": "token", "id": f"msg_{n // message:06}", "text": f"{word} "} for n, word in enumerate(words)]


async def measure(url: str, events: int, message: int, rounds: int) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        await http.put("/runs/chat", headers={"content-type": "application/json"})
        said = chat(events, message)
        for start in range(0, events, BATCH):
            await http.post("/runs/chat", json=said[start : start + BATCH])
        await http.post("/runs/chat", headers={"stream-closed": "true"})
        ways = [(live, fold) for live in ("", "&live=sse") for fold in ("", FOLD)]
        times: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
        sizes: dict[tuple[str, str], tuple[int, int]] = {}
        for _ in range(rounds):
            for way in ways:
                began = time.perf_counter()
                sizes[way] = await read(http, *way)
                times[way].append(time.perf_counter() - began)
        for live, fold in ways:
            size, found = sizes[live, fold]
            mode = f"{'sse' if live else 'plain pages':12}{'folded' if fold else 'as it is':10}"
            click.echo(f"{mode}{found:7,} events{size:12,} bytes{statistics.median(times[live, fold]) * 1000:9.1f} ms")


async def read(http: httpx.AsyncClient, live: str, fold: str) -> tuple[int, int]:
    """The whole chat once: its bytes, and how many events it was."""
    offset, size, found = "-1", 0, 0
    while True:
        answer = await http.get(f"/runs/chat?offset={offset}{live}&{fold}")
        size += len(answer.content)
        if live:
            lines = [line[5:] for line in answer.content.split(b"\n") if line.startswith(b"data:[")]
            return size, sum(len(json.loads(line)) for line in lines)
        found += len(answer.json())
        if "stream-up-to-date" in answer.headers:
            return size, found
        offset = answer.headers["stream-next-offset"]


async def run(events: int, message: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedPostgres(Path(folder)) as postgres:
            machine = Machine({"PORT": "0", "DATABASE_URL": postgres.dsn})
            await machine.launch()
            try:
                await measure(machine.url, events, message, rounds)
            finally:
                await machine.end()


@click.command()
@click.option("--events", default=40_000, show_default=True)
@click.option("--message", default=100, show_default=True, help="Events of one message.")
@click.option("--rounds", default=9, show_default=True)
def main(events: int, message: int, rounds: int) -> None:
    asyncio.run(run(events, message, rounds))


if __name__ == "__main__":
    main()
