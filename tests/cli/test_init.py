"""`run-gateway init`: it knows apps by their files, overwrites nothing, and what it writes is taken by the gateway."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from click.testing import CliRunner

from gateway.cli import main
from gateway.cli.init import COMPOSE, ENV, FLY, App, files, recognise
from gateway.relay.configuration import rows_of
from gateway.settings import Settings, variable


def folder(at: Path, **contents: str) -> Path:
    """A folder with these files; `__` in a name is a slash, and `_dot_` a dot."""
    for name, text in contents.items():
        file = at / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return at


def package(**dependencies: str) -> str:
    return json.dumps({"dependencies": {name.replace("__", "/"): version for name, version in dependencies.items()}})


NEXT = {"package_dot_json": package(ai="^7", next="16")}
ROUTE = "export async function POST(r) { return streamText({}).toUIMessageStreamResponse() }"
FASTAPI = "[project]\ndependencies = ['fastapi>=0.115', 'Uvicorn[standard]']"
STREAMS = "@app.post('/answer')\nasync def answer(): return StreamingResponse(x, media_type='text/event-stream')"


@pytest.mark.parametrize(
    ("contents", "relay", "port", "sure"),
    [
        (NEXT | {"app__api__chat__route_dot_ts": ROUTE}, "ai-sdk:/api/chat", 3000, True),
        (NEXT | {"src__app__api__ask__route_dot_ts": ROUTE}, "ai-sdk:/api/ask", 3000, True),
        (NEXT | {"pages__api__talk_dot_ts": ROUTE}, "ai-sdk:/api/talk", 3000, True),
        (NEXT, "ai-sdk:/api/chat", 3000, False),
        (
            NEXT | {"app__api__a__route_dot_ts": ROUTE, "app__api__b__route_dot_ts": ROUTE},
            "ai-sdk:/api/chat",
            3000,
            False,
        ),
        (NEXT | {"node_modules__x__app__api__x__route_dot_ts": ROUTE}, "ai-sdk:/api/chat", 3000, False),
        (
            {"package_dot_json": json.dumps({"dependencies": {"@tanstack/ai": "1", "vite": "8"}})},
            "tanstack:/api/chat",
            5173,
            False,
        ),
        ({"langgraph_dot_json": "{}"} | NEXT, "langgraph:/", 2024, True),
        ({"pyproject_dot_toml": FASTAPI, "main_dot_py": STREAMS}, "sse:/answer", 8000, True),
        ({"requirements_dot_txt": "fastapi==1\nag-ui-protocol", "src__a_dot_py": STREAMS}, "ag-ui:/answer", 8000, True),
    ],
)
def test_an_app_is_known_by_its_files(
    contents: dict[str, str], relay: str, port: int, sure: bool, tmp_path: Path
) -> None:
    app = recognise(folder(tmp_path, **contents))
    assert app is not None
    assert (app.relay, app.port, app.sure) == (relay, port, sure)


@pytest.mark.parametrize(
    "contents",
    [
        {},
        {"package_dot_json": package(express="5")},
        {"package_dot_json": "[1]"},
        {"package_dot_json": '{"dependencies": 7}'},
        {"package_dot_json": "{", "pyproject_dot_toml": "["},
        {"pyproject_dot_toml": FASTAPI},
        {"pyproject_dot_toml": FASTAPI, "main_dot_py": STREAMS + STREAMS.replace("answer", "other")},
        {"pyproject_dot_toml": FASTAPI, "main_dot_py": STREAMS.replace("/answer", "/a/{id}")},
    ],
)
def test_of_what_cannot_be_told_nothing_is_written(contents: dict[str, str], tmp_path: Path) -> None:
    at = folder(tmp_path, **contents)
    before = sorted(at.rglob("*"))
    done = CliRunner().invoke(main, ["init", str(at)])
    assert (done.exit_code, sorted(at.rglob("*"))) == (1, before)
    assert "nothing was written" in done.stderr


def test_it_says_what_it_did_and_overwrites_nothing(tmp_path: Path) -> None:
    at = folder(tmp_path, **NEXT, app__api__chat__route_dot_ts=ROUTE)
    (at / COMPOSE).write_text("mine")
    done = CliRunner().invoke(main, ["init", str(at), "--fly"])
    assert done.exit_code == 0
    assert "package.json needs ai: taken for ai-sdk at POST /api/chat, on port 3000." in done.stdout
    for said in (f"{ENV} written.", f"{COMPOSE} is there already: left as it is.", f"{FLY} written."):
        assert said in done.stdout
    assert (at / COMPOSE).read_text() == "mine"
    written = (at / ENV).read_text()
    CliRunner().invoke(main, ["init", str(at)])
    assert (at / ENV).read_text() == written


@pytest.mark.parametrize("relay", ["ai-sdk", "tanstack", "ag-ui", "langgraph", "sse"])
def test_the_gateway_takes_what_is_written(relay: str) -> None:
    written = files(App(relay, "/" if relay == "langgraph" else "/api/chat", 3000, ""))
    env = dict(line.split("=", 1) for line in written[ENV].splitlines() if line and not line.startswith("#"))
    compose: Any = yaml.safe_load(written[COMPOSE])
    fly = tomllib.loads(written[FLY])
    for settings in (env, compose["services"]["a"]["environment"], compose["services"]["b"]["environment"], fly["env"]):
        assert settings.keys() <= {variable(name) for name in Settings.model_fields} | {"FORWARDED_ALLOW_IPS"}
        (row, *_) = rows_of(settings["GATEWAY_RELAY"], None, settings.get("GATEWAY_RELAY_CREDENTIAL"))
        assert row.credential or "GATEWAY_RELAY_CREDENTIAL" not in settings
