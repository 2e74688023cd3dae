"""`run-gateway relay`: what rows will do, and what they would do with one request to a running upstream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click
import orjson

from gateway.process.exit_codes import Failure, Misuse, settings
from gateway.protocol.errors import ProtocolError
from gateway.protocol.json_body import at_once
from gateway.relay.answers import asked as headers_for
from gateway.relay.answers import recordable, replayed
from gateway.relay.asking import Answer, Asking
from gateway.relay.bodies import altered_in_pieces
from gateway.relay.configuration import rows_of
from gateway.relay.errors import BadRow
from gateway.relay.explaining import explain
from gateway.relay.framing import Framer, data_of, has_data, silent, with_id
from gateway.relay.ids import frame_id
from gateway.relay.keys import Asked, as_key, field, in_answer
from gateway.relay.patterns import query_of
from gateway.relay.rows import Row
from gateway.relay.table import Table

RUN = "run_01ARZ3NDEKTSV4RRFFQ69G5FAV"  # in the place of an id, as the ULID's own specification writes one


@click.group()
def relay() -> None:
    """Look at the rows of a relay (GATEWAY_RELAY, GATEWAY_RELAY_FILE)."""


@relay.command("check")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--relay", "presets", metavar="PRESETS", help="Instead of GATEWAY_RELAY: such as ai-sdk:/api/chat.")
def check(file: Path | None, presets: str | None) -> None:
    """Say what each row will do, or what is wrong with one."""
    for number, row in enumerate(_rows(file, presets), 1):
        click.echo(f"{number} {row.name}")
        for about, words in explain(row):
            click.echo(f"  {about:<8}{words}")


@relay.command("try")
@click.argument("method")
@click.argument("target")
@click.option("-d", "--data", default="", help="The body, or @FILE.")
@click.option("-H", "--header", "headers", multiple=True, help="A header, such as 'x-run-id: r1'.")
@click.option("--file", type=click.Path(path_type=Path), help="Instead of GATEWAY_RELAY_FILE.")
@click.option("--relay", "presets", metavar="PRESETS", help="Instead of GATEWAY_RELAY.")
@click.option("--upstream", metavar="ORIGIN", help="Instead of GATEWAY_UPSTREAM.")
@click.option("--frames", default=5, show_default=True, help="Frames that are shown; then the upstream is left.")
def try_(
    method: str,
    target: str,
    data: str,
    headers: Sequence[str],
    file: Path | None,
    presets: str | None,
    upstream: str | None,
    frames: int,
) -> None:
    """Send a request to the upstream, and show what would be recorded: key, ids and ways back. Stores nothing."""
    origin = settings(upstream=upstream).upstream
    if origin is None:
        raise Misuse("GATEWAY_UPSTREAM is not set: which upstream is asked?")
    body = Path(data[1:]).read_bytes() if data.startswith("@") else data.encode()
    given = [_header(text) for text in headers]
    if body and not any(name == b"content-type" for name, _ in given):
        given.append((b"content-type", b"application/json"))
    raw_path, _, query = target.partition("?")
    asked = Asked(given, query_of(query.encode()), {}, _json(body))
    table = Table(_rows(file, presets))
    for row, path in table.starts(method.upper(), raw_path, asked.query):
        request = Asked(asked.headers, asked.query, path, asked.body)
        if row.takes(request):
            asyncio.run(_try(row, request, origin, method.upper(), target, body, frames))
            return
    raise Failure(f"no row takes {method.upper()} {target}: it would be passed on, and leave no run")


async def _try(row: Row, asked: Asked, origin: str, method: str, target: str, body: bytes, most: int) -> None:
    click.echo(f"row     {row.name}")
    body = at_once(altered_in_pieces(body, row.drop, row.set)) if row.alters else body
    host = (b"host", origin.partition("://")[2].encode())
    try:
        headers = [host, *headers_for(asked.headers, len(body) if body or method != "GET" else None)]
        answer = await Asking(origin)(method, target.encode(), headers, body)
    except ProtocolError as error:
        raise Failure(f"{error.message} {error.details or ''}") from None
    click.echo(f"answer  {answer.status}")
    if not recordable(row, answer.status, answer.headers):
        answer.close()
        raise Failure("this answer would be passed on as it is, and leave no run")
    key = asked.find(row.key) if row.key and row.key.in_request else None
    key = key or (RUN if row.keyless else None)
    if row.key is not None and row.key.place == "response":
        key = in_answer(row.key, answer.headers)
    shown = await _frames(row, answer, most)
    if row.key is not None and row.key.place == "frame":
        first = next((data_of(row.frames, frame) for frame in shown if has_data(row.frames, frame)), b"null")
        key = as_key(field(_json(first), row.key.name))
    if row.key is not None:
        click.echo(f"key     {key or 'none: clients could not come back by one'}")
    values = {"run": RUN, **({} if key is None else {"key": key})}
    for name, value in replayed(row, answer.headers, values):
        click.echo(f"header  {name.decode('latin-1')}: {value.decode('latin-1')}")
    for pattern in row.resume:
        if pattern.names <= values.keys():
            click.echo(f"back    {pattern.method} {pattern.fill(values)}")
    for number, frame in enumerate(shown, 1):
        wire = with_id(row.frames, frame, frame_id(RUN, number)) if row.ids else frame
        click.echo(f"frame   {wire!r}"[:-1].replace("frame   b'", "frame   ").replace('frame   b"', "frame   "))


async def _frames(row: Row, answer: Answer, most: int) -> list[bytes]:
    framer, shown = Framer(row.frames), list[bytes]()
    async for piece in answer.pieces():
        shown += [frame for frame in framer.feed(piece) if row.frames == "ndjson" or not silent(frame)]
        if len(shown) >= most:
            break
    return shown[:most]


def _rows(file: Path | None, presets: str | None) -> tuple[Row, ...]:
    given = settings()
    try:
        rows = rows_of(
            presets or (None if file else given.relay),
            file or (None if presets else given.relay_file),
            given.relay_credential,
        )
    except BadRow as error:
        raise Misuse(str(error)) from None
    if not rows:
        raise Misuse("there are no rows: name a file, or set GATEWAY_RELAY or GATEWAY_RELAY_FILE")
    return rows


def _header(text: str) -> tuple[bytes, bytes]:
    name, colon, value = text.partition(":")
    if not colon:
        raise Misuse(f"{text!r} is no header: it needs a colon")
    return name.strip().lower().encode(), value.strip().encode()


def _json(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
