"""The direction of imports between the rooms of the house."""

from __future__ import annotations

import ast
import functools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gateway

HOUSE = Path(gateway.__file__).parent

# What each room may import from the house, besides itself. What is not listed here is wired by app.py and cli.
ROOMS = {
    "protocol": set(),
    "counting": set(),
    "asgi": {"protocol"},
    "wording": set(),
    "outage": set(),
    "tasks": {"outage", "protocol"},
    "lifetime": {"tasks"},
    "feed": {"outage", "protocol"},
    "log": {"counting", "feed", "outage", "protocol", "settings", "tasks"},
    "fanout": {"counting", "outage", "protocol", "tasks"},
    "wire": {"fanout", "outage", "protocol", "tasks"},
    "embedded": set(),
    "quotas": {"asgi", "auth", "protocol", "settings"},
    "http": {"asgi", "auth", "counting", "fanout", "log", "protocol", "quotas", "tasks", "wire"},
    "page": {"protocol"},
    "metrics": {"counting", "fanout", "flue", "http", "log", "owner", "relay", "runs", "subscriptions", "tasks"},
    "settings": {"wording"},
    "auth": {"asgi", "log", "outage", "protocol", "settings", "tasks", "wording"},
    "flue": {"asgi", "auth", "fanout", "http", "lifetime", "log", "outage", "protocol", "settings", "tasks"},
    "subscriptions": {"asgi", "auth", "feed", "http", "log", "outage", "protocol", "quotas", "tasks"},
    "runs": {"asgi", "auth", "fanout", "feed", "http", "log", "outage", "protocol", "quotas", "tasks"},
    "relay": {
        *(
            "asgi",
            "auth",
            "counting",
            "fanout",
            "feed",
            "http",
            "log",
            "outage",
            "protocol",
            "quotas",
            "runs",
            "settings",
        ),
        "tasks",
    },
    "owner": {"asgi", "http", "log", "outage", "protocol", "settings", "tasks"},
    "tracing": {"asgi", "auth", "http", "protocol"},
    "behind": {
        *("asgi", "auth", "fanout", "feed", "flue", "http", "log", "metrics", "owner", "quotas", "relay", "settings"),
    },
    "api": {"asgi", "auth", "flue", "http", "metrics", "page", "runs", "subscriptions"},
    "client": {"protocol", "wording"},
}


@functools.cache
def tree(path: Path) -> ast.Module:
    """Parsed once for all tests here."""
    return ast.parse(path.read_text())


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """The full names of the modules that a file imports, wherever in it."""
    return frozenset(_imported(path))


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by relation, which this test cannot follow"
            assert node.module is not None
            # `from gateway import log` names a room as well.
            yield from (f"gateway.{alias.name}" for alias in node.names) if node.module == "gateway" else [node.module]


def sources(folder: Path) -> Iterator[Path]:
    """All files of Python in it but those that npm has brought."""
    for at, folders, names in os.walk(folder):
        if "node_modules" in folders:
            folders.remove("node_modules")
        yield from (Path(at, name) for name in names if name.endswith(".py"))


def files(room: str) -> list[Path]:
    single = HOUSE / f"{room}.py"
    found = [single] if single.exists() else sorted((HOUSE / room).rglob("*.py"))
    assert found, f"there is no room named {room}"
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_the_rooms_below_it(room: str) -> None:
    allowed = ROOMS[room] | {room}
    wrong = [
        f"{path.relative_to(HOUSE)} imports {name}"
        for path in files(room)
        for name in imports(path)
        if name.startswith("gateway.") and name.split(".")[1] not in allowed
    ]
    assert not wrong


def test_the_protocol_imports_only_the_stdlib_and_orjson() -> None:
    wrong = [
        f"{path.relative_to(HOUSE)} imports {name}"
        for path in files("protocol")
        for name in imports(path)
        if name.split(".")[0] not in sys.stdlib_module_names | {"orjson", "gateway"}
    ]
    assert not wrong


@pytest.mark.parametrize(
    "module",
    ["asyncio", "datetime.now", "logging", "os", "pathlib", "random", "secrets", "socket", "threading", "time"],
)
def test_the_protocol_touches_no_clock_chance_or_outside_world(module: str) -> None:
    for path in files("protocol"):
        assert module not in imports(path), path.name
        assert f"{module}(" not in path.read_text(), path.name


def test_only_what_runs_a_machine_wires_the_application() -> None:
    wrong = [
        str(path.relative_to(HOUSE))
        for path in HOUSE.rglob("*.py")
        if "gateway.app" in imports(path) and path.relative_to(HOUSE).parts[0] != "process"
    ]
    assert not wrong


def test_what_runs_a_machine_knows_no_command() -> None:
    wrong = [str(path) for path in files("process") if any(re.match(r"gateway\.cli\b", name) for name in imports(path))]
    assert not wrong


def test_only_a_few_rooms_know_the_database_driver() -> None:
    wrong = {
        path.relative_to(HOUSE).parts[0]
        for path in HOUSE.rglob("*.py")
        if any(name.split(".")[0] == "asyncpg" for name in imports(path))
    }
    assert wrong <= {"flue", "log", "subscriptions", "runs", "relay", "embedded", "process", "cli"}


def test_only_the_wire_and_what_starts_it_know_the_server() -> None:
    knowing = {
        str(path.relative_to(HOUSE))
        for path in HOUSE.rglob("*.py")
        if path.relative_to(HOUSE).parts[0] != "wire" and any(name.split(".")[0] == "uvicorn" for name in imports(path))
    }
    assert knowing == {"http/fast_append.py", "process/metrics_port.py", "process/server.py"}


def test_tests_take_their_tools_from_tests_not_loadtests() -> None:
    tests = HOUSE.parent / "tests"
    testers = {
        "loadtests",
        "flue/real/test_survival.py",
        "log/test_collisions.py",
        "runs/test_killed.py",
    }  # these try what is in loadtests
    wrong = [
        str(path.relative_to(tests))
        for path in sources(tests)
        if any(name.split(".")[0] == "loadtests" for name in imports(path))
        and not any(path.is_relative_to(tests / one) for one in testers)
    ]
    assert not wrong


def test_few_rooms_know_the_server_under_asgi() -> None:
    wrong = {
        path.relative_to(HOUSE).parts[0]
        for path in HOUSE.rglob("*.py")
        if any(name.split(".")[0] in ("uvicorn", "httptools") for name in imports(path))
    }
    assert wrong <= {"fanout", "http", "cli", "wire", "process", "relay"}


def test_what_a_url_names_is_found_in_one_place() -> None:
    """By `protocol.target`: nobody else tells streams, runs and what lies below them apart by the path of a URL."""
    wrong = [
        f"{path.relative_to(HOUSE)}: {ast.unparse(node)}"
        for path in HOUSE.rglob("*.py")
        if path != HOUSE / "protocol" / "target.py" and "openapi" not in str(path)  # which tells templates apart
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("startswith", "removeprefix", "fullmatch")
        and any(isinstance(part, ast.Constant) and part.value in ("/runs/", "/v1/stream/") for part in ast.walk(node))
    ]
    assert not wrong


def test_what_is_raised_becomes_a_refusal_at_the_door_alone() -> None:
    callers = {
        path.relative_to(HOUSE).as_posix()
        for path in HOUSE.rglob("*.py")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "responses.refuse"
    }
    assert len(callers) == 1, callers


def test_a_refusal_gets_its_one_shape_in_one_place() -> None:
    bodies = {
        path.relative_to(HOUSE).as_posix()
        for path in HOUSE.rglob("*.py")
        if "openapi" not in path.parts  # whose examples show it
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Dict) and ast.unparse(node).startswith("{'error': {")
    }
    assert bodies == {"http/responses.py"}


def test_the_name_of_a_test_is_a_sentence_of_60_characters() -> None:
    tests = HOUSE.parent / "tests"
    long = [
        f"{path.relative_to(tests)}: {node.name}"
        for path in sources(tests)
        if path.name.startswith("test_")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        if len(node.name) > 60
    ]
    assert not long
