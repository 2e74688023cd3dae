"""`run-gateway runs`, `show`, `cancel`, `delete` and `token`: an operator looks at runs, and steers them, over HTTP."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

import click
import httpx

from gateway.cli.remote import Span, session, token_option, url_option
from gateway.cli.watching import watch
from gateway.client import Session, StreamGone, refusal, stream_url
from gateway.process.exit_codes import Failure, finish
from gateway.protocol.record import STATUSES

PATIENCE: Final = 10.0
"""Seconds of no answer, or none but failures, after which a command gives up: a person waits at the terminal."""
_PAGE: Final = 100  # runs that are asked for at once
_MOST_FOLLOWED: Final = 500  # runs of the list with which a live list begins
_EVENTS: Final = 3  # that `show` prints of each end

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")


def _pair(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = dict(value.partition("=")[::2] for value in values)
    if any("=" not in value for value in values) or "" in pairs:
        raise click.BadParameter("must be NAME=VALUE")
    return pairs


@click.command(short_help="List runs, the newest first.")
@click.option("--status", type=click.Choice(STATUSES), help="Only runs that are so.")
@click.option("--workflow", metavar="NAME", help="Only runs of this workflow.")
@click.option("--metadata", multiple=True, metavar="NAME=VALUE", callback=_pair, help="Only runs with this metadata.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many at most.")
@click.option("--follow", is_flag=True, help="Go on with each run that is created, cancelled, ended or removed.")
@url_option
@token_option
@_json_option
def runs(
    status: str | None,
    workflow: str | None,
    metadata: dict[str, str],
    limit: int,
    follow: bool,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """List runs, the newest first: id, status, workflow, when it began, how long it took, and metadata.

    With --follow, the newest comes last, and what happens to runs after it, until Ctrl-C.
    """
    given = {"status": status, "workflowName": workflow} | {f"metadata.{name}": each for name, each in metadata.items()}
    asked = {name: value for name, value in given.items() if value is not None}
    if follow:
        finish(_follow(url, asked | {"limit": str(min(limit, _MOST_FOLLOWED))}, token, as_json))
    else:
        finish(_runs(url, asked, limit, token, as_json))


@click.command(short_help="Show a run: its record, its size, who reads it, its first and last events.")
@click.argument("run")
@url_option
@token_option
@_json_option
def show(run: str, url: str, token: str | None, as_json: bool) -> None:
    """Show the record of RUN, how many events and bytes it has, the last sign of life of a producer with a lease, how
    many read it at the Machine that answers, and the first and the last events.
    """
    finish(_show(stream_url(url, run), token, as_json))


@click.command(short_help="Ask the producer of a run to stop.")
@click.argument("run")
@click.option("--reason", metavar="TEXT", help="What the producer is told.")
@click.option("--wait", metavar="TIME", type=Span(0, 300), help="Wait until the run has ended: 90, or 5min.")
@url_option
@token_option
def cancel(run: str, reason: str | None, wait: float | None, url: str, token: str | None) -> None:
    """Ask the producer of RUN to stop. It only asks: the producer hears of it in its control stream, and with the
    answer to its next append or heartbeat.
    """
    finish(_cancel(stream_url(url, run), reason, wait, token))


@click.command(short_help="Delete a run, with its events and its record.")
@click.argument("run")
@click.option("--yes", is_flag=True, help="Do not ask whether that is meant.")
@url_option
@token_option
def delete(run: str, yes: bool, url: str, token: str | None) -> None:
    """Delete RUN: its events, its record and its control stream. Its readers are told that it is gone."""
    address = stream_url(url, run)
    if not yes:
        click.confirm(f"Delete {address} and all of its events?", abort=True, err=True)
    finish(_delete(address, token))


@click.command(short_help="Make a token with which others may read one run.")
@click.argument("run")
@click.option(
    "--ttl", metavar="TIME", type=Span(1, 2**31), help="How long it is valid: 90s, 7d. Else GATEWAY_TOKEN_TTL."
)
@click.option("--control", is_flag=True, help="It may also cancel the run.")
@url_option
@token_option
def token(run: str, ttl: float | None, control: bool, url: str, token: str | None) -> None:
    """Print a token for RUN, which opens this one run to its holder. It needs a credential that may read it."""
    asked = {"ttl": None if ttl is None else int(ttl), "control": control or None}
    finish(_token(stream_url(url, run), {name: each for name, each in asked.items() if each is not None}, token))


async def _runs(url: str, asked: dict[str, str], limit: int, token: str | None, as_json: bool) -> None:
    found = 0
    async with session(patience=PATIENCE, token=token) as http:
        async for record in _pages(http, f"{url.rstrip('/')}/runs", asked, limit):
            found += 1
            click.echo(json.dumps(record) if as_json else _row(record))
    if not found and not as_json:
        click.echo("No run is so." if asked else "There are no runs yet.", err=True)


async def _follow(url: str, asked: dict[str, str], token: str | None, as_json: bool) -> None:
    async with session(patience=math.inf, token=token) as http:
        async for what, record in watch(http, f"{url.rstrip('/')}/runs", asked):
            click.echo(json.dumps({"change": what, "run": record}) if as_json else f"{what:<9}  {_row(record)}")


async def _pages(http: Session, url: str, asked: dict[str, str], limit: int) -> AsyncIterator[dict[str, Any]]:
    cursor: dict[str, str] = {}
    while limit > 0:
        page = (await _ask(http, "GET", url, asked | cursor | {"limit": str(min(limit, _PAGE))})).json()
        for record in page["runs"]:
            yield record
        limit -= len(page["runs"])
        if "nextCursor" not in page:
            return
        cursor = {"cursor": page["nextCursor"]}


async def _show(url: str, token: str | None, as_json: bool) -> None:
    async with session(patience=PATIENCE, token=token) as http:
        answer = await _ask(http, "GET", url, {"meta": "activity"})
        record = answer.json()
        activity = record.pop("activity", {})  # which a Machine of the version before does not tell
        head = await http.head(url)
        tail = head.headers["stream-next-offset"]
        epoch, _, number = tail.rpartition("_")
        shown: dict[str, Any] = {
            "record": record,
            "nextOffset": tail,
            "events": int(number),
            "closed": head.headers.get("stream-closed") == "true",
            "machine": answer.headers.get("gateway-machine"),
            **{name: activity[name] for name in ("bytes", "lastSignOfLife", "readersHere") if name in activity},
        }
        if head.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
            first = (await _ask(http, "GET", url, {"offset": "-1"})).json()
            last = await _last(http, url, epoch, int(number))
            shown |= {"first": first[:_EVENTS], "last": last[-max(0, min(_EVENTS, int(number) - _EVENTS)) :]}
    click.echo(json.dumps(shown) if as_json else _shown(shown))


async def _last(http: Session, url: str, epoch: str, count: int) -> list[Any]:
    """The last events, where there are more than the first."""
    if count <= _EVENTS:
        return []
    try:
        answer = await _ask(http, "GET", url, {"offset": f"{epoch}_{count - _EVENTS:016d}"})
    except StreamGone:
        return []  # the log has changed its server since then: that position is called otherwise
    events: list[Any] = answer.json()
    return events


async def _cancel(url: str, reason: str | None, wait: float | None, token: str | None) -> None:
    async with session(patience=max(PATIENCE, (wait or 0) + PATIENCE), token=token) as http:
        body = b"" if reason is None else json.dumps({"reason": reason}).encode()
        await _ask(http, "POST", f"{url}/cancel", content=body)
        if wait is None:
            click.echo("The producer is asked to stop.")
            return
        record = (await _ask(http, "GET", url, {"meta": "", "wait": f"{wait:g}"})).json()
    if record["status"] == "active":
        raise Failure(f"asked to stop, and active still after {wait:g} seconds")
    click.echo(f"It has ended: {record['status']}.")


async def _delete(url: str, token: str | None) -> None:
    async with session(patience=PATIENCE, token=token) as http:
        await _ask(http, "DELETE", url)


async def _token(url: str, asked: dict[str, Any], token: str | None) -> None:
    async with session(patience=PATIENCE, token=token) as http:
        answer = (await _ask(http, "POST", f"{url}/token", content=json.dumps(asked).encode())).json()
    until = datetime.fromtimestamp(answer["expiresAt"], UTC)
    click.echo(answer["token"])
    click.echo(f"It is valid until {until:%Y-%m-%d %H:%M:%S} UTC.", err=True)


async def _ask(
    http: Session, method: str, url: str, query: dict[str, str] | None = None, content: bytes = b""
) -> httpx.Response:
    """An answer that says yes. Raises ClientError."""
    address = str(httpx.URL(url, params=query)) if query else url
    response = (await http.send(method, address, content=content)).response
    if not response.is_success:
        raise refusal(response)
    return response


def _row(record: dict[str, Any]) -> str:
    metadata = " ".join(f"{name}={value}" for name, value in record.get("metadata", {}).items())
    columns = (record["runId"], record["status"], record.get("workflowName", "-"), record["startedAt"], _took(record))
    return "  ".join([f"{columns[0]:<30}", f"{columns[1]:<9}", f"{columns[2]:<16}", *columns[3:], metadata]).rstrip()


def _took(record: dict[str, Any]) -> str:
    """The time that a run took, or has taken until now, in a fixed width."""
    if "durationMs" in record:
        seconds = record["durationMs"] / 1000
    else:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(record["startedAt"])).total_seconds()
    return f"{f'{seconds:.1f} s' if seconds < 100 else f'{seconds / 60:.0f} min':>8}"


def _shown(shown: dict[str, Any]) -> str:
    record = shown["record"]
    lines = [f"{name}: {value if isinstance(value, str) else json.dumps(value)}" for name, value in record.items()]
    size = f" of {shown['bytes']:,} bytes" if "bytes" in shown else ""
    end = "closed" if shown["closed"] else "open"
    lines.append(f"events: {shown['events']}{size}, {end} at offset {shown['nextOffset']}")
    if "lastSignOfLife" in shown and not shown["closed"]:
        lines.append(f"last sign of life: {shown['lastSignOfLife']}")
    if "readersHere" in shown:
        lines.append(f"readers at {shown['machine'] or 'this Machine'}: {shown['readersHere']}")
    lines += [json.dumps(event, ensure_ascii=False) for event in shown.get("first", [])]
    more = shown["events"] - len(shown.get("first", [])) - len(shown.get("last", []))
    if "first" in shown and more > 0:
        lines.append(f"… {more} more …")
    lines += [json.dumps(event, ensure_ascii=False) for event in shown.get("last", [])]
    return "\n".join(lines)
