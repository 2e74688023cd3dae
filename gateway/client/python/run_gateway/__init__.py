"""Record runs, and read them: the client of a run gateway.

    async with Run("http://127.0.0.1:8080/runs/17", workflow="chat") as run:
        await run.emit({"type": "token", "text": "Hel"})

    async for event in follow("http://127.0.0.1:8080/runs/17"):
        print(event)

`with` and `for` do the same where there is no loop, and so do the functions of `run_gateway.sync`. What is below that,
`Session`, `Producer` and `Follower`, works with any server of the Durable Streams protocol.
"""

from __future__ import annotations

from run_gateway import sync
from run_gateway.address import stream_url
from run_gateway.errors import (
    BadAnswer,
    ClientError,
    Fenced,
    GaveUp,
    NoSuchStream,
    NotLetIn,
    Refused,
    RunCancelled,
    RunEnded,
    StreamClosed,
    StreamGone,
)
from run_gateway.follower import Follower
from run_gateway.following import Following, follow
from run_gateway.producer import Producer
from run_gateway.retry import Backoff
from run_gateway.run import BlockingRun, Run
from run_gateway.runs import RunRecord, cancel, get_run, list_runs, token, wait
from run_gateway.session import Session, Trouble, client, refusal
from run_gateway.sse import Parser, Step, Steps, elements, unbase64

__all__ = [
    "Backoff",
    "BadAnswer",
    "BlockingRun",
    "ClientError",
    "Fenced",
    "Follower",
    "Following",
    "GaveUp",
    "NoSuchStream",
    "NotLetIn",
    "Parser",
    "Producer",
    "Refused",
    "Run",
    "RunCancelled",
    "RunEnded",
    "RunRecord",
    "Session",
    "Step",
    "Steps",
    "StreamClosed",
    "StreamGone",
    "Trouble",
    "cancel",
    "client",
    "elements",
    "follow",
    "get_run",
    "list_runs",
    "refusal",
    "stream_url",
    "sync",
    "token",
    "unbase64",
    "wait",
]
