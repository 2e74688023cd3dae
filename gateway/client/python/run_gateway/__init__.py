"""A small client of the Durable Streams protocol, for agents in Python and for the commands that talk to Machines.

It knows the protocol and httpx; nothing of the gateway's inside, so that it works with any server of the
protocol. Only `Run` is for a run gateway.
"""

from __future__ import annotations

from run_gateway.address import stream_url
from run_gateway.errors import (
    BadAnswer,
    ClientError,
    Fenced,
    GaveUp,
    NoSuchStream,
    NotLetIn,
    Refused,
    StreamClosed,
    StreamGone,
)
from run_gateway.follow import Follower
from run_gateway.producer import Producer
from run_gateway.retry import Backoff
from run_gateway.run import Run, RunCancelled
from run_gateway.session import Session, Trouble, client, refusal
from run_gateway.sse import Parser, Step, Steps, elements, unbase64

__all__ = [
    "Backoff",
    "BadAnswer",
    "ClientError",
    "Fenced",
    "Follower",
    "GaveUp",
    "NoSuchStream",
    "NotLetIn",
    "Parser",
    "Producer",
    "Refused",
    "Run",
    "RunCancelled",
    "Session",
    "Step",
    "Steps",
    "StreamClosed",
    "StreamGone",
    "Trouble",
    "client",
    "elements",
    "refusal",
    "stream_url",
    "unbase64",
]
