"""What settings cannot mean together: `serve` says so in one line, and has started nothing by then."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from gateway.process.checks import check
from gateway.process.database import unfit
from gateway.process.exit_codes import Failure, Misuse
from gateway.settings import Settings, load, variable
from tests.cli.commands import command

URL = "postgres://user@host/db"
SECRET = "a-secret-of-more-than-32-characters"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"listen_database_url": URL}, "LISTEN_DATABASE_URL is set, but DATABASE_URL is not"),
        ({"metrics_port": 8080}, "GATEWAY_METRICS_PORT and PORT are both 8080"),
        ({"upstream": "http://127.0.0.1:8080"}, "GATEWAY_UPSTREAM=http://127.0.0.1:8080 is this gateway itself"),
        ({"upstream": "http://localhost:80", "port": 80}, "is this gateway itself"),
        ({"relay_recorders": "http://h:1"}, "GATEWAY_RELAY_RECORDERS is set, but neither GATEWAY_RELAY nor"),
        ({"relay_credential": "cookie:a"}, "GATEWAY_RELAY_CREDENTIAL is set, but neither GATEWAY_RELAY nor"),
        ({"owned": "/chat/{id}"}, "GATEWAY_OWNED is set, but GATEWAY_UPSTREAM is not"),
        ({"owned": "/chat", "upstream": "http://h:1"}, "GATEWAY_OWNED: /chat: a row is a path with"),
        ({"owned": "/c/{id}", "upstream": "http://h:1", "owned_auth": True}, "GATEWAY_OWNED_AUTH is set, but AUTH"),
        (
            {"owned": "/c/{id}", "upstream": "http://h:1", "relay_recorders": "http://r:1"},
            "GATEWAY_RELAY_RECORDERS and GATEWAY_OWNED are both set",
        ),
        (
            {
                "owned": "/chat/{id}",
                "upstream": "http://h:1",
                "host": "0.0.0.0",
                "auth": "keys",
                "keys": f"a:read:{SECRET}",
            },
            "HOST=0.0.0.0 does not say where other Machines reach this one: set GATEWAY_ADVERTISE",
        ),
        (
            {"owned": "/chat/{id}", "upstream": "http://h:1", "fly_private_ip": "fdaa::1"},
            "HOST=127.0.0.1 is not where other Machines reach this one on Fly: set HOST=::",
        ),
        ({"flue_agents": "/chat"}, "GATEWAY_FLUE_AGENTS is set, but GATEWAY_UPSTREAM is not"),
        ({"flue_agents": "/chat", "upstream": "http://h:1"}, "GATEWAY_FLUE_AGENTS is set, but DATABASE_URL is not"),
        ({"flue_agents": "/chat/{id}"}, "GATEWAY_FLUE_AGENTS: /chat/{id}: an agent is named by the path"),
        ({"flue_readers": "2.1.0"}, "GATEWAY_FLUE_READERS is set, but GATEWAY_FLUE_AGENTS is not"),
        ({"flue_readers": "2.0.0"}, "GATEWAY_FLUE_READERS: it is not known here what Flue 2.0.0 answers, only 2.1.0"),
        ({"flue_agents": "/chat,/chat"}, "GATEWAY_FLUE_AGENTS: /chat,/chat: an agent stands there twice"),
        (
            {"flue_agents": "/chat", "upstream": "http://h:1", "database_url": URL, "flue": True},
            "GATEWAY_FLUE is for a beta of Flue, and GATEWAY_FLUE_AGENTS for Flue 2.x",
        ),
        ({"flue": True, "flue_workflows": "*"}, "GATEWAY_FLUE is on, but DATABASE_URL is not set"),
        ({"flue": True, "database_url": URL}, "GATEWAY_FLUE shows runs without asking"),
        ({"keys": f"a:read:{SECRET}"}, "GATEWAY_KEYS is set, but AUTH is not, .* set AUTH=keys, or AUTH=none"),
        ({"keys_file": "/etc/keys"}, "GATEWAY_KEYS_FILE is set, but AUTH is not"),
        ({"jwt_secret": SECRET}, "GATEWAY_JWT_SECRET is set, but AUTH is not, .* set AUTH=jwt"),
        ({"auth": "keys"}, "neither GATEWAY_KEYS nor GATEWAY_KEYS_FILE holds a key"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(flags: dict[str, object], words: str) -> None:
    with pytest.raises(Misuse, match=words) as refused:
        check(load(**flags))
    assert SECRET not in refused.value.message


def test_auth_none_that_was_asked_for_may_keep_its_keys() -> None:
    check(load(auth="none", keys=f"a:read:{SECRET}"))


def test_traces_without_their_extra_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gateway.tracing.export", None)
    with pytest.raises(Failure, match=r"^GATEWAY_TRACES needs the extra otel"):
        check(load(traces=True))


async def test_serve_refuses_them_before_it_starts_a_database(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    refused = await command("serve", PORT="0", GATEWAY_DATA_DIR=str(folder), GATEWAY_FLUE="on")
    assert (refused.code, refused.out) == (2, "")
    assert re.fullmatch(r"run-gateway: .*\n", refused.err)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("major", "encoding", "words"),
    [
        (15, "UTF8", None),
        (18, "SQL_ASCII", None),
        (14, "UTF8", "is of Postgres 14: the log needs Postgres 15 or later"),
        (15, "LATIN1", "has the encoding LATIN1, which lacks most characters"),
    ],
)
def test_a_database_that_cannot_hold_the_log_is_refused(major: int, encoding: str, words: str | None) -> None:
    fault = unfit(major, encoding)
    assert fault is None if words is None else fault is not None and words in fault
