"""The settings as people read them: for `serve --help`, for the manual (`python -m gateway.settings.listing`), and the
setting that is meant by a variable that is none.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic.fields import FieldInfo

from gateway.settings.environment import variable
from gateway.settings.model import SECTIONS, Settings


class Row(NamedTuple):
    """A setting as people read it. `default` is empty where there is none."""

    variable: str
    default: str
    description: str


class Section(NamedTuple):
    """Settings that belong together."""

    title: str
    rows: list[Row]


def sections() -> list[Section]:
    """Every setting, in the order of the class."""
    found: list[Section] = []
    for name, field in Settings.model_fields.items():
        if name in SECTIONS:
            found.append(Section(SECTIONS[name], []))
        found[-1].rows.append(Row(variable(name), _default(field), field.description or ""))
    return found


def table() -> str:
    """The settings as the Markdown table that stands in the manual."""
    lines = ["| variable | default | what it is |", "|---|---|---|"]
    for title, rows in sections():
        lines.append(f"| **{title}** | | |")
        lines += [f"| `{row.variable}` | {row.default and f'`{row.default}`'} | {row.description} |" for row in rows]
    return "\n".join(lines)


def _default(field: FieldInfo) -> str:
    match field.default:
        case None:
            return ""
        case bool(value):
            return str(value).lower()
        case Path() as path:
            return f"./{path}"
        case float(value):
            return f"{value:g}"
        case value:
            return str(value)


def misspelt(environment: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Variables that look like settings and are none, each with the one that was probably meant."""
    known = [variable(name) for name in Settings.model_fields]
    for name in environment:
        if name.startswith("GATEWAY_") and name not in known:
            from difflib import get_close_matches  # seldom needed

            bare = name.removeprefix("GATEWAY_")
            # So close that what an orchestrator sets for a service that is called gateway is not taken for a mistake.
            meant = [bare] if bare in known else get_close_matches(name, known, 1, 0.9)
            yield from ((name, setting) for setting in meant)


def unread_in(file: Path, environment: Container[str]) -> list[str]:
    """Settings that stand in a file of variables, which nobody reads, and not in the environment."""
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    known = {variable(name) for name in Settings.model_fields}
    names = [line.strip().removeprefix("export ").partition("=")[0].strip() for line in lines if "=" in line]
    return [name for name in dict.fromkeys(names) if name in known and name not in environment]


if __name__ == "__main__":
    print(table())
