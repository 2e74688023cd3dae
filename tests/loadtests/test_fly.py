"""The load tests' own app on Fly: its image holds what its users need, and its processes are that program."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent.parent
LOAD = ROOT / "loadtests" / "people"
FLY: dict[str, Any] = tomllib.loads((LOAD / "fly.toml").read_text())
DOCKERFILE = (LOAD / "Dockerfile").read_text()
GATEWAY: dict[str, Any] = tomllib.loads((ROOT / "fly.toml").read_text())


def copied() -> set[str]:
    (line,) = re.findall(r"^COPY (.*) /load/loadtests/people/$", DOCKERFILE, re.MULTILINE)
    return set(line.split())


def test_the_image_holds_every_module_that_its_modules_import() -> None:
    for name in copied():
        for node in ast.walk(ast.parse((LOAD / name).read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("loadtests"):
                assert f"{(node.module or '').removeprefix('loadtests.people.')}.py" in copied(), (
                    f"{name} imports {node.module}"
                )
    lines = (LOAD / ".dockerignore").read_text().splitlines()
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == copied()


def test_its_locust_is_one_that_the_load_tests_are_written_for() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (locust,) = [each for each in map(Requirement, extras["load"]) if each.name == "locust"]
    (pinned,) = re.findall(r"locust==(\S+)", DOCKERFILE)
    assert pinned in locust.specifier


def test_both_processes_run_the_same_file_and_find_each_other() -> None:
    assert set(FLY["processes"]) == {"master", "worker"}
    for name, line in FLY["processes"].items():
        program, *arguments = line.split()
        assert (program, arguments[:3]) == ("locust", ["-f", "loadtests/people/locustfile.py", f"--{name}"])
    assert FLY["env"]["LOCUST_MASTER_NODE_HOST"] == f"master.process.{FLY['app']}.internal"
    assert FLY["env"]["LOCUST_HOST"] == GATEWAY["env"]["PUBLIC_URL"]


def test_it_sets_what_the_users_read() -> None:
    read = set(
        re.findall(r'environ(?:\.get\(|\[)"?\'?(LOAD_\w+)', "".join((LOAD / name).read_text() for name in copied()))
    )
    assert {name for name in FLY["env"] if name.startswith("LOAD_")} <= read
    assert "LOAD_KEY" in read and "LOAD_KEY" not in FLY["env"], "a secret"
