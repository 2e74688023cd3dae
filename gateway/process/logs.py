"""The log: lines on stderr, of JSON for collectors, and of plain words at a terminal.

A line of JSON has `time`, `level`, `logger` and `message`; what names the process (`machine`, `worker`, on Fly `region`
and `fly_machine`) where it is known; what names the request where there is one; and `exception`, a traceback.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from gateway.settings import Settings

_WORDS = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_process: dict[str, str | int] = {}


def log_to_stderr(settings: Settings, **process: str | int) -> None:
    """Begins to log at the level that is set. `process`: fields that name the process in every line of JSON."""
    json_lines = not sys.stderr.isatty() if settings.log_format == "auto" else settings.log_format == "json"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if json_lines else Words(_WORDS))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(settings.log_level.upper())
    identify(**settings.place, **process)
    # The HTTP client logs whole addresses, and those of webhooks may hold secrets.
    for client in ("httpx", "httpcore"):
        logging.getLogger(client).setLevel(logging.WARNING)
    # uvicorn logs its start and stop at INFO, in five lines that say what one of ours says.
    if settings.log_level == "info":
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


def identify(**process: str | int) -> None:
    """Adds fields that name this process in every line of JSON."""
    _process.update(process)


class JsonLines(logging.Formatter):
    """Each record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_process,
            **_request(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Words(logging.Formatter):
    """Each record as a line for people, with what names its request at the end."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the library's name
        said = " ".join(f"{name}={value}" for name, value in _request(record).items())
        return f"{super().formatMessage(record)} {said}".rstrip()


def _request(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "request", {})
    return fields
