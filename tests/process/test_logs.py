"""The log of a Machine: JSON lines where nobody reads along, requests by their id, and never a query."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from gateway.process import logs
from gateway.settings import Settings, load
from tests.databases import Postgres
from tests.machines import Machine

FLY = {"FLY_REGION": "fra", "FLY_MACHINE_ID": "148e21"}
JSON = {"content-type": "application/json"}


def lines(machine: Machine) -> list[dict[str, Any]]:
    """What is JSON of what it has said; the rest is for people, on stdout."""
    return [json.loads(line) for line in machine.log.splitlines() if line.startswith("{")]


class Stderr(io.StringIO):
    terminal = False

    def isatty(self) -> bool:
        return self.terminal


Begin = Callable[..., Stderr]


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """Begins to log; returns where to. Loggers are afterwards as they were."""
    root = logging.getLogger()
    handlers, level, quiet = root.handlers[:], root.level, logging.getLogger("uvicorn.error").level
    monkeypatch.setattr(logs, "_process", {})

    def log(settings: Settings, terminal: bool = False, **process: str | int) -> Stderr:
        stderr = Stderr()
        stderr.terminal = terminal
        monkeypatch.setattr(sys, "stderr", stderr)
        logs.log_to_stderr(settings, **process)
        return stderr

    yield log
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
    root.setLevel(level)
    logging.getLogger("uvicorn.error").setLevel(quiet)


def test_a_log_in_json_names_the_process_and_the_request(begin: Begin) -> None:
    stderr = begin(load(fly_region="fra", fly_machine_id="148e21"), worker=2)
    logs.identify(machine="ab12")
    try:
        raise ZeroDivisionError("half\nway")
    except ZeroDivisionError:
        logging.getLogger("gateway.x").exception("Two\nlines.", extra={"request": {"path": "/runs/1"}})
    (line,) = stderr.getvalue().splitlines()
    said = json.loads(line)
    assert said.pop("time").endswith("+00:00")
    assert said.pop("exception").endswith("ZeroDivisionError: half\nway")
    assert said == {
        "level": "error",
        "logger": "gateway.x",
        "message": "Two\nlines.",
        "machine": "ab12",
        "worker": 2,
        "region": "fra",
        "fly_machine": "148e21",
        "path": "/runs/1",
    }


@pytest.mark.parametrize(("terminal", "format"), [(True, "auto"), (False, "text")])
def test_a_person_is_given_words(begin: Begin, terminal: bool, format: str) -> None:
    stderr = begin(Settings.model_validate({"log_format": format, "fly_region": "fra"}), terminal)
    logging.getLogger("gateway.x").info("Done.", extra={"request": {"path": "/runs/1", "status": 204}})
    assert stderr.getvalue().endswith(" INFO gateway.x: Done. path=/runs/1 status=204\n")


async def test_a_lost_database_is_logged_and_a_clients_fault_is_not(
    postgres: Postgres,
) -> None:
    async with postgres.database() as url, Machine.start(url, env=FLY) as machine:
        async with httpx.AsyncClient(base_url=machine.url, timeout=30) as http:
            created = await http.put("/runs/1", headers=JSON)
            assert created.headers["gateway-machine"] == "fra/148e21"
            assert (await http.post("/runs/1", headers=JSON, content="1")).headers["gateway-machine"] == "fra/148e21"
            assert (await http.get("/runs/1?offset=-1")).status_code == 200
            assert (await http.get("/runs/2")).status_code == 404
            assert not [line for line in lines(machine) if line["logger"] == "gateway.http"]

            name = urlsplit(url).path.removeprefix("/")
            await postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            await postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
            lost = await http.get("/runs/1?offset=-1&token=secret", headers={"x-request-id": "abc-1"})
            assert (lost.status_code, lost.headers["x-request-id"]) == (503, "abc-1")
        assert await machine.terminate() == 0
    (said,) = [line for line in lines(machine) if line["logger"] == "gateway.http"]
    assert {name: said[name] for name in ("level", "message", "request_id", "method", "path", "status", "refusal")} == {
        "level": "warning",
        "message": "A request was refused.",
        "request_id": "abc-1",
        "method": "GET",
        "path": "/runs/1",
        "status": 503,
        "refusal": "unavailable",
    }
    assert (said["region"], said["fly_machine"], len(said["machine"])) == ("fra", "148e21", 8)
    assert "secret" not in machine.log


async def test_an_access_log_has_one_line_a_request_and_no_query(database_url: str) -> None:
    env = {"GATEWAY_ACCESS_LOG": "true", "GATEWAY_SSE_MAX_AGE": "0.1"}
    async with Machine.start(database_url, env=env) as machine:
        async with httpx.AsyncClient(base_url=machine.url, timeout=30) as http:
            await http.put("/runs/1", headers=JSON)
            await http.post("/runs/1", headers=JSON, content="1")
            await http.get("/runs/1?offset=-1&live=sse&token=secret", headers={"fly-request-id": "f-1"})
            await http.get("/runs/a%0Ab?token=secret", headers={"x-request-id": 'x" forged="1'})
        assert await machine.terminate() == 0
    said = [line for line in lines(machine) if line["logger"] == "gateway.http"]
    assert [(line["method"], line["path"], line["status"]) for line in said] == [
        ("PUT", "/runs/1", 201),
        ("POST", "/runs/1", 204),
        ("GET", "/runs/1", 200),
        ("GET", "/runs/a%0Ab", 400),
    ]
    assert said[3]["refusal"] == "invalid_request"
    assert said[2]["request_id"] == "f-1" and said[2]["seconds"] >= 0.1
    assert len(said[3]["request_id"]) == 16, "what a client makes up in quotes is no id"
    assert "secret" not in machine.log
