"""`run-gateway settings`, `key` and what is said of an unknown command."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from gateway.auth.keys import Keys
from gateway.cli import main
from gateway.settings import Settings, variable


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)


def test_settings_that_are_given_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_MAX_READERS", "17")
    assert CliRunner().invoke(main, ["settings"]).stdout == "GATEWAY_MAX_READERS=17\n"


def test_all_settings_are_shown_with_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9000")
    shown = json.loads(CliRunner().invoke(main, ["settings", "--all", "--json"]).stdout)
    assert shown.keys() == {variable(name) for name in Settings.model_fields}
    assert (shown["PORT"], shown["GATEWAY_MAX_HEAD"], shown["DATABASE_URL"]) == (9000, 32768, None)
    assert "GATEWAY_MAX_HEAD=32768  (default)" in CliRunner().invoke(main, ["settings", "--all"]).stdout


@pytest.mark.parametrize("name", [variable(name) for name, field in Settings.model_fields.items() if not field.repr])
def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    secret = "postgresql://u:hush-hush-hush@db/x" if name.endswith("DATABASE_URL") else "a:read:hush-hush-hush-hush-1"
    monkeypatch.setenv(name, secret)
    shown = CliRunner().invoke(main, ["settings", "--all"])
    assert shown.exit_code == 0
    assert f"{name}=(set, not shown)\n" in shown.stdout
    assert "hush" not in shown.output


def test_a_setting_that_cannot_be_used_is_misuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "many")
    refused = CliRunner().invoke(main, ["settings"])
    assert refused.exit_code == 2
    assert "PORT" in refused.stderr


def test_a_new_key_is_one_that_can_be_used() -> None:
    lines = [CliRunner().invoke(main, ["key", "new", "agent", "--tenant", "t1"]).stdout for _ in range(2)]
    assert lines[0] != lines[1]
    assert lines[0].startswith("agent@t1:read,write,control:")
    Keys(lines[0], None)


@pytest.mark.parametrize("arguments", [["a b"], ["a", "--scopes", "everything"], ["a", "--tenant", "x/y"]])
def test_a_key_that_could_not_be_used_is_misuse(arguments: list[str]) -> None:
    refused = CliRunner().invoke(main, ["key", "new", *arguments])
    assert (refused.exit_code, refused.stdout) == (2, "")


@pytest.mark.parametrize(("typed", "meant"), [("run", "runs"), ("servce", "serve"), ("settngs", "settings")])
def test_an_unknown_command_suggests_one(typed: str, meant: str) -> None:
    refused = CliRunner().invoke(main, [typed])
    assert refused.exit_code == 2
    assert f"Is {meant!r} meant?" in refused.stderr
    assert "meant" not in CliRunner().invoke(main, ["xyzzy"]).stderr
