"""`run-gateway tail`: a run on stdout, one line per event, to its end."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

import click

from gateway.cli.progress import progress
from gateway.cli.remote import session, token_option, url_option
from gateway.client import Follower, Step, elements, stream_url, unbase64
from gateway.process.exit_codes import finish, note
from gateway.protocol.offset import events_between, parse_position


@click.command(short_help="Follow a run to its end.")
@click.argument("run")
@click.option(
    "--from", "offset", default="-1", metavar="OFFSET", help="Where to begin: -1 (the start), now, an offset."
)
@url_option
@token_option
@click.option("--verbose", is_flag=True, help="Print offsets and every reconnection on stderr.")
def tail(run: str, offset: str, url: str, token: str | None, verbose: bool) -> None:
    """Follow RUN and print its events, one JSON text per line, until it is closed.

    RUN is the id of a run, its address (streamUrl), or the path of any stream with its leading slash:
    /v1/stream/orders. Lost connections and restarts of Machines are resumed from the last offset: every event
    is printed once.
    """
    finish(_tail(stream_url(url, run), offset, token, verbose))


async def _tail(url: str, offset: str, token: str | None, verbose: bool) -> None:
    async with session(patience=math.inf, token=token, verbose=verbose) as http:
        head = (await http.head(url)).headers
        json = _is_json(head)
        follower = Follower(http, [url], offset)
        with progress("events" if json else "bytes", beside=True) as told:
            told.whole = _between(offset, head.get("stream-next-offset", ""))
            async for step in follower:
                printed = _printed(step, json, follower.binary)
                sys.stdout.buffer.write(printed)
                sys.stdout.buffer.flush()
                told.add(printed.count(b"\n") if json else len(printed))
                if verbose:
                    told.end()
                    note(f"offset {step.offset}{' (closed)' if step.closed else ''}")


def _is_json(head: Mapping[str, str]) -> bool:
    # An SSE response has its own content type, so the stream's has to be asked for.
    return head.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _between(offset: str, tail: str) -> int | None:
    """The size of the past that is to be read; None where these are not offsets of the gateway's own."""
    start = 0 if offset == "-1" else parse_position(offset.encode())
    end = parse_position(tail.encode())
    return None if start is None or end is None else max(0, events_between(start, end))


def _printed(step: Step, json: bool, binary: bool) -> bytes:
    if json:
        return "".join(f"{event}\n" for data in step.data for event in elements(data)).encode()
    if binary:
        return b"".join(map(unbase64, step.data))
    return "".join(step.data).encode()
