"""`run-gateway init`: finds out what app is in a folder, and writes what puts the gateway before it.

It looks at files and runs none. What is there already stays as it is.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from gateway.process.exit_codes import Failure

MOST_FILES: Final = 2_000  # that are looked at
MOST_BYTES: Final = 256 << 10  # of one of them
_SKIPPED: Final = {"node_modules", ".git", ".next", ".venv", "venv", "dist", "build", "__pycache__", ".run-gateway"}
_ROUTE: Final = re.compile(r"(?:^|/)(?:src/)?(?:app|pages)/(api/[\w/-]+?)(?:/route)?\.[jt]sx?$")
_ROUTES: Final = re.compile(r"\.(get|post|put|patch|delete)\(\s*[rf]?[\"'`](/[\w/{}:.-]*)[\"'`]")
_STREAMS: Final = re.compile(r"text/event-stream|EventSourceResponse|application/x-ndjson|UIMessageStream|toServerSent")

ENV: Final = "run-gateway.env"
COMPOSE: Final = "compose.run-gateway.yaml"
FLY: Final = "fly.run-gateway.toml"


@dataclass(frozen=True, slots=True)
class App:
    """An app that answers requests with streams: the preset of the relay for it, where it answers, and its usual port.
    `why`: by what it was recognised; `sure`: its path was found, and not assumed.
    """

    preset: str
    path: str
    port: int
    why: str
    sure: bool = True

    @property
    def relay(self) -> str:
        return f"{self.preset}:{self.path}"


def recognise(folder: Path) -> App | None:
    """The app in a folder; None if it cannot be told. Raises Failure where it has several."""
    if (folder / "langgraph.json").exists():
        return App("langgraph", "/", 2024, "langgraph.json")
    needed = _javascript(folder)
    for package, preset in (("@tanstack/ai", "tanstack"), ("@ag-ui/core", "ag-ui"), ("ai", "ai-sdk")):
        if package in needed:
            port = 3000 if "next" in needed or "vite" not in needed else 5173
            return _at(folder, App(preset, "/api/chat", port, f"package.json needs {package}", sure=False))
    needed = _python(folder)
    if "langgraph-api" in needed:
        return App("langgraph", "/", 2024, "it needs langgraph-api")
    for package in ("fastapi", "starlette", "litestar", "flask", "aiohttp"):
        if package in needed:
            posts = "ag-ui" if any(name.startswith("ag-ui") for name in needed) else "sse"
            for preset, *how in ((posts, "post"), ("event-source", "get"), (posts, "post", True)):
                found = sorted(_streaming(folder, *how))
                if len(found) > 1 and len(how) == 1:  # of all POSTs beside a stream nobody knows which it is
                    which = ",".join(f"{preset}:{path}" for path in found)
                    raise Failure(
                        f"several routes stream, so nothing was written. GATEWAY_RELAY={which} records all of them"
                    )
                if len(found) == 1:
                    return App(preset, found[0], 8000, f"it needs {package}")
            return None
    return None


def _javascript(folder: Path) -> set[str]:
    try:
        package = json.loads((folder / "package.json").read_text())
        return {*package.get("dependencies", {}), *package.get("devDependencies", {})}
    except (OSError, ValueError, AttributeError, TypeError):
        return set()


def _python(folder: Path) -> set[str]:
    needed: list[str] = []
    with suppress(OSError, ValueError, AttributeError, TypeError):
        project: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())
        needed += project.get("project", {}).get("dependencies", [])
        needed += project.get("tool", {}).get("poetry", {}).get("dependencies", {})
    with suppress(OSError, ValueError):
        needed += (folder / "requirements.txt").read_text().splitlines()
    return {re.split(r"[^\w.-]", str(each).strip(), maxsplit=1)[0].lower() for each in needed}


def _at(folder: Path, app: App) -> App:
    """The app with the path of the one route that streams, if there is one and no more."""
    found = _streaming(folder, "post") or _streaming(folder, "post", all_posts=True)
    return App(app.preset, found.pop(), app.port, app.why) if len(found) == 1 else app


def _streaming(folder: Path, method: str, all_posts: bool = False) -> set[str]:
    """The paths of the routes of this method that stream. `all_posts`: or are in a source that does."""
    found: set[str] = set()
    for name, text in _sources(folder):
        if not _STREAMS.search(text):
            continue
        route = _ROUTE.search(name)
        if route is not None:
            found.add("/" + route[1])
        found.update(_routes(text, method, all_posts))
    return found


def _routes(text: str, method: str, all_posts: bool) -> Iterator[str]:
    """The paths of a method's routes in a source that streams: those behind which it does, before the next route."""
    routes = list(_ROUTES.finditer(text))
    ends = [*(route.start() for route in routes[1:]), len(text)]
    for route, end in zip(routes, ends, strict=False):
        plain = route[1] == method and not re.search("[{:]", route[2])
        if plain and (all_posts or _STREAMS.search(text, route.end(), end)):
            yield route[2]


def _sources(folder: Path) -> Iterator[tuple[str, str]]:
    """The sources in a folder by their paths from there: as many as MOST_FILES."""
    waiting, looked = [folder], 0
    while waiting:
        for each in sorted(waiting.pop(0).iterdir()):
            if each.is_symlink() or each.name in _SKIPPED:
                continue
            if each.is_dir():
                waiting.append(each)
            elif each.suffix in (".ts", ".tsx", ".js", ".jsx", ".mjs", ".py") and each.stat().st_size <= MOST_BYTES:
                looked += 1
                if looked > MOST_FILES:
                    return
                yield each.relative_to(folder).as_posix(), each.read_text(errors="replace")


def files(app: App) -> dict[str, str]:
    """The files that are written for an app, by their names."""
    credential = "header:authorization" if app.preset in ("langgraph", "sse") else "header:cookie"
    return {
        ENV: _ENV.format(relay=app.relay, port=app.port),
        COMPOSE: _COMPOSE.format(relay=app.relay, port=app.port, credential=credential),
        FLY: _FLY.format(relay=app.relay, credential=credential),
    }


_ENV: Final = """\
# The run gateway before this app, on this machine: set -a; . ./run-gateway.env; run-gateway serve
GATEWAY_UPSTREAM=http://127.0.0.1:{port}
GATEWAY_RELAY={relay}
PORT=8080
"""

_COMPOSE: Final = """\
# Two Machines of the run gateway and their Postgres, before the app that listens on port {port} of this machine.
# They are built from a checkout of the gateway:
# RUN_GATEWAY=../run-gateway docker compose -f compose.run-gateway.yaml up, and open http://127.0.0.1:8080
x-gateway: &gateway
  build: ${{RUN_GATEWAY:?the folder of a checkout of the run gateway}}
  environment:
    HOST: 0.0.0.0
    GATEWAY_ALLOW_ANONYMOUS: "true"  # its ports are open to this machine only; anywhere else, set AUTH
    DATABASE_URL: postgres://postgres:run-gateway@postgres/postgres
    GATEWAY_UPSTREAM: http://host.docker.internal:{port}
    GATEWAY_RELAY: {relay}
    # Who may come back: the same as the POST's. Better name the one cookie that says who it is: cookie:session
    GATEWAY_RELAY_CREDENTIAL: {credential}
  extra_hosts: ["host.docker.internal:host-gateway"]
  depends_on: {{ postgres: {{ condition: service_healthy }} }}
  stop_grace_period: 5m  # for what is being recorded
services:
  a: {{ <<: *gateway, ports: ["127.0.0.1:8080:8080"] }}
  b: {{ <<: *gateway, ports: ["127.0.0.1:8081:8080"] }}
  postgres:
    image: postgres:18
    environment: {{ POSTGRES_PASSWORD: run-gateway }}
    healthcheck: {{ test: pg_isready -U postgres, interval: 1s, retries: 60 }}
    volumes: ["run-gateway:/var/lib/postgresql"]
volumes: {{ run-gateway: }}
"""

_FLY: Final = """\
# The run gateway before this app on Fly, as an app of its own beside it. Put the app's name where … stands, and deploy
# from a checkout of the gateway, whose Dockerfile it is: fly deploy --config fly.run-gateway.toml
# Two secrets: fly secrets set DATABASE_URL=… GATEWAY_KEYS=…, which `run-gateway key new` prints.
app = "…-gateway"
kill_signal = "SIGTERM"
kill_timeout = 300

[build]
dockerfile = "Dockerfile"

[env]
HOST = "0.0.0.0"
PORT = "8080"
AUTH = "keys"  # of the gateway's own routes; the app goes on guarding its own
PUBLIC_URL = "https://…-gateway.fly.dev"
FORWARDED_ALLOW_IPS = "*"
GATEWAY_UPSTREAM = "http://….internal:8080"
GATEWAY_RELAY = "{relay}"
# Who may come back: the same as the POST's. Better name the one cookie that says who it is: cookie:session
GATEWAY_RELAY_CREDENTIAL = "{credential}"
GATEWAY_METRICS_PORT = "9091"
GATEWAY_MIGRATE = "false"

[deploy]
strategy = "rolling"
release_command = "run-gateway migrate"

[http_service]
internal_port = 8080
force_https = true
auto_stop_machines = "off"
min_machines_running = 2

[http_service.concurrency]
type = "connections"
soft_limit = 2000
hard_limit = 2500

[[http_service.checks]]
method = "GET"
path = "/health"
interval = "30s"
timeout = "5s"
grace_period = "10s"

[http_service.checks.headers]
X-Forwarded-Proto = "https"

[metrics]
port = 9091
path = "/metrics"

[[vm]]
size = "shared-cpu-1x"
memory = "512mb"
"""


@click.command()
@click.argument(
    "folder", default=".", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="[FOLDER]"
)
@click.option("--fly", is_flag=True, help=f"Write {FLY} as well.")
def init(folder: Path, fly: bool) -> None:
    """Write what puts the gateway before the app in this folder."""
    app = recognise(folder)
    if app is None:
        raise Failure(
            f"what streams in {folder} could not be told from package.json, langgraph.json, pyproject.toml and"
            " requirements.txt, so nothing was written. GATEWAY_RELAY=PRESET:/PATH says it: gateway/relay/README.md"
        )
    method = "GET" if app.preset == "event-source" else "POST"
    click.echo(f"{app.why}: taken for {app.preset} at {method} {app.path}, on port {app.port}.")
    if not app.sure:
        click.echo("No route that streams was found, or several: look whether that is its path.")
    for name, text in files(app).items():
        if name == FLY and not fly:
            continue
        try:
            with (folder / name).open("x") as file:
                file.write(text)
        except FileExistsError:
            click.echo(f"{name} is there already: left as it is.")
        else:
            click.echo(f"{name} written.")
    click.echo(f"How its clients come back: run-gateway relay check --relay {app.relay}")
    click.echo(f"Now: set -a; . ./{ENV}; run-gateway serve — and open http://127.0.0.1:8080 instead of :{app.port}.")
