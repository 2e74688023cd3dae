"""A small client of the Durable Streams protocol, for agents in Python and for the commands that talk to Machines.

It knows the protocol and httpx; nothing of the gateway's inside, so that it works with any server of the
protocol. Only `Run` is for a run gateway.
"""

from __future__ import annotations

from gateway.client.address import stream_url
from gateway.client.errors import (
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
from gateway.client.follow import Follower
from gateway.client.producer import Producer
from gateway.client.retry import Backoff
from gateway.client.run import Run, RunCancelled
from gateway.client.session import Session, Trouble, client, refusal
from gateway.client.sse import Parser, Step, Steps, elements, unbase64

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
