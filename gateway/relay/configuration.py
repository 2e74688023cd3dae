"""The rows of a relay, from GATEWAY_RELAY (presets with their paths) and GATEWAY_RELAY_FILE (rows in TOML)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from gateway.relay.errors import BadRow
from gateway.relay.keys import Source
from gateway.relay.rows import Row, read_row

_PATH: Final = re.compile(r"\{path\}(?=\Z|\?)")  # all of a path, which may be `/`


@cache
def presets() -> Mapping[str, Mapping[str, Any]]:
    """The presets by name, as they are written."""
    return tomllib.loads((files(__package__) / "presets.toml").read_text())


def rows_of(relay: str | None, file: Path | None, credential: str | None = None) -> tuple[Row, ...]:
    """Parses all rows, in the order in which they are tried: presets first. Raises BadRow.

    `relay`: such as `ai-sdk:/api/chat,ag-ui:/agent`. `credential`: sources with commas between, for those rows that say
    nothing of who may come back.
    """
    rows = [*(_preset(text.strip()) for text in (relay or "").split(",") if text.strip()), *_of_file(file)]
    if credential:
        rows = [_with_credential(row, credential) for row in rows]
    seen = set[str]()
    for row in rows:
        if row.name in seen:
            raise BadRow(f"two rows are called {row.name}: give one of them another name")
        seen.add(row.name)
    return tuple(rows)


def _preset(text: str) -> Row:
    preset, colon, path = text.partition(":")
    place = f"GATEWAY_RELAY={text}"
    if preset not in presets():
        raise BadRow(f"{place}: there is no preset {preset}; there are {', '.join(sorted(presets()))}")
    if not colon or not path.startswith("/"):
        raise BadRow(f"{place}: a preset needs its path, such as {preset}:/api/chat")
    written = {"name": text, **{name: _at(path.rstrip("/"), value) for name, value in presets()[preset].items()}}
    return read_row(written, place)


def _at(path: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_at(path, each) for each in value]
    if isinstance(value, dict):
        return {name: _at(path, each) for name, each in value.items()}
    return _PATH.sub(path or "/", value).replace("{path}", path) if isinstance(value, str) else value


def _of_file(file: Path | None) -> list[Row]:
    if file is None:
        return []
    try:
        written = tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise BadRow(f"{file} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise BadRow(f"{file} is not TOML: {error}") from None
    rows = written.pop("relay", [])
    if written:
        raise BadRow(f"{file}: {next(iter(written))} is not known here; rows stand under [[relay]]")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadRow(f"{file}: rows stand under [[relay]]")
    return [read_row({"name": f"relay-{n}", **row}, f"{file}, row {n}") for n, row in enumerate(rows, 1)]


def _with_credential(row: Row, credential: str) -> Row:
    if row.credential or row.authorize:
        return row
    try:
        sources = tuple(Source.parse(text.strip()) for text in credential.split(","))
    except ValueError as error:
        raise BadRow(f"GATEWAY_RELAY_CREDENTIAL {error}") from None
    if any(source.place not in ("header", "cookie", "query") for source in sources):
        raise BadRow("GATEWAY_RELAY_CREDENTIAL must be headers, cookies or fields of the query")
    return row.model_copy(update={"credential": sources})


def table() -> str:
    """The presets as the Markdown table that stands in the manual."""
    lines = ["| preset | records | key | ways back | ids | stop | rejoin |", "|---|---|---|---|---|---|---|"]
    for name in presets():
        row = _preset(f"{name}:/PATH")
        ways = [str(pattern) for pattern in row.resume]
        same = "the same GET" if row.by_get else "the same POST"
        if row.attach:
            ways.append(same)
        starts = "<br>".join(f"`{pattern}`" for pattern in row.start)
        back = "<br>".join(way if way == same else f"`{way}`" for way in ways)
        key = "" if row.key is None else f"`{row.key}`" + (", or the run's id" if row.keyless else "")
        stop = "" if row.stop is None else f"`{row.stop}`"
        rejoin = "" if row.rejoin is None else f"`{row.rejoin.ask}`"
        lines.append(f"| `{name}` | {starts} | {key} | {back} | {'yes' if row.ids else ''} | {stop} | {rejoin} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
