"""The policy for tests that need Node: skipped with a reason where it cannot be had, failed in CI, never hidden."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.node import Script, npm_ci, require_node, unavailable


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder whose lock file asks for a package that is nowhere."""
    name, version = "run-gateway-no-such-package", "1.0.0"
    root = {"name": "test", "dependencies": {name: version}}
    packages = {"": root, f"node_modules/{name}": {"version": version, "integrity": "sha512-AAAA"}}
    (tmp_path / "package.json").write_text(json.dumps(root))
    (tmp_path / "package-lock.json").write_text(json.dumps({"lockfileVersion": 3, "packages": packages}))
    return tmp_path


@pytest.mark.parametrize("value", [None, "", "false"])
def test_what_cannot_be_had_is_skipped_with_its_reason(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    set_ci(monkeypatch, value)
    with pytest.raises(pytest.skip.Exception, match="it rained"):
        unavailable("it rained")


def test_in_ci_what_cannot_be_had_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    set_ci(monkeypatch, "true")
    with pytest.raises(pytest.fail.Exception, match="it rained"):
        unavailable("it rained")


def test_a_machine_without_node_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_ci(monkeypatch, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match=r"Node\.js 20\.19 or newer with npm is not installed"):
        require_node()


def test_packages_that_nobody_answers_for_are_skipped(monkeypatch: pytest.MonkeyPatch, package: Path) -> None:
    require_node()
    set_ci(monkeypatch, None)
    offline(monkeypatch)
    with pytest.raises(pytest.skip.Exception, match=r"npm could not download .* \(ECONNREFUSED\)"):
        npm_ci(package)


def test_a_lock_file_that_is_none_is_a_failure_everywhere(monkeypatch: pytest.MonkeyPatch, package: Path) -> None:
    require_node()
    set_ci(monkeypatch, None)
    (package / "package-lock.json").write_text("{}")
    with pytest.raises(pytest.fail.Exception, match="npm ci failed"):
        npm_ci(package)


async def test_a_script_that_fails_is_reported_with_what_it_printed(tmp_path: Path) -> None:
    require_node()
    script = tmp_path / "script.mjs"
    script.write_text("console.log('[1]'); console.error('oh no'); process.exitCode = 3")
    with pytest.raises(pytest.fail.Exception, match=r"(?s)exit code 3.*\[1\].*oh no"):
        async with Script.start(script) as running:
            await running.end()


async def test_a_script_hears_what_it_is_told(tmp_path: Path) -> None:
    require_node()
    script = tmp_path / "script.mjs"
    script.write_text("process.stdin.pipe(process.stdout)")
    async with Script.start(script) as running:
        await running.say({"n": 1})
        await running.until(lambda lines: lines == [{"n": 1}])
        running.hush()
        assert await running.end() == [{"n": 1}]


def set_ci(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv("CI", raising=False)
    else:
        monkeypatch.setenv("CI", value)


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """npm asks an address where nobody listens, and has nothing from before."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
