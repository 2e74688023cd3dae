"""`run-gateway tail`: a run on stdout, one line per event, to its end."""

from __future__ import annotations

import math
import sys

import click

from gateway.cli.remote import session, token_option, url_option
from gateway.client import Follower, Session, Step, elements, stream_url, unbase64
from gateway.process.exit_codes import finish, note


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
        json = await _is_json(http, url)
        follower = Follower(http, [url], offset)
        async for step in follower:
            sys.stdout.buffer.write(_printed(step, json, follower.binary))
            sys.stdout.buffer.flush()
            if verbose:
                note(f"offset {step.offset}{' (closed)' if step.closed else ''}")


async def _is_json(http: Session, url: str) -> bool:
    # An SSE response has its own content type, so the stream's has to be asked for.
    content_type: str = (await http.head(url)).headers.get("content-type", "")
    return content_type.partition(";")[0].strip().lower() == "application/json"


def _printed(step: Step, json: bool, binary: bool) -> bytes:
    if json:
        return "".join(f"{event}\n" for data in step.data for event in elements(data)).encode()
    if binary:
        return b"".join(map(unbase64, step.data))
    return "".join(step.data).encode()
