"""Keys: how they are written, what is refused, and that they are read again; as pure values and as a process."""

from __future__ import annotations

import asyncio
import signal
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from gateway.auth.keys import Keys
from gateway.auth.principal import Principal
from gateway.settings import BadSetting
from tests.cli.commands import command
from tests.databases import Postgres
from tests.machines import Machine

OLD, NEW, OTHER = "old-secret-16-chars", "new-secret-16-chars", "other-secret-16-chars"


def find(keys: Keys, secret: str) -> Principal | None:
    return keys.find(sha256(secret.encode()).digest())


def test_two_secrets_of_one_name_are_valid_at_once() -> None:
    keys = Keys(f"agent:write,read:{OLD} agent:write,read:{NEW}\nops@acme:admin:{OTHER}", None)
    assert find(keys, OLD) == find(keys, NEW) == Principal("key:agent", frozenset({"write", "read"}))
    assert find(keys, OTHER) == Principal("key:ops@acme", frozenset({"admin"}), "acme")
    assert find(keys, OLD[:-1]) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "neither GATEWAY_KEYS nor GATEWAY_KEYS_FILE holds a key"),
        (OLD, "GATEWAY_KEYS, key 1: must be NAME:SCOPES:SECRET"),
        (f"a@:read:{OLD}", "must be NAME:SCOPES:SECRET"),
        (f"a@b@c:read:{OLD}", "must be NAME:SCOPES:SECRET"),
        (f"a:read:{OLD} b:root:{NEW}", "GATEWAY_KEYS, key 2: scopes must be of admin, control, read, write"),
        (f"a::{OLD}", "scopes must be of"),
        ("a:read:short", "the secret must be 16 to 512 characters"),
        (f"a:read:{OLD}'", "the secret must be"),
        (f"a:read:{OLD} b@acme:read:{OLD}", "a and b@acme have the same secret: each needs its own"),
        (f"a:read:{OLD} a:read,write:{OLD}", "a has the same secret twice, with different scopes"),
    ],
)
def test_what_cannot_be_a_key_is_refused_without_its_secret(text: str, words: str) -> None:
    with pytest.raises(BadSetting, match=words) as refused:
        Keys(text, None)
    assert "secret-16" not in str(refused.value)


def test_a_key_file_has_comments_and_a_broken_one_is_not_taken(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    with pytest.raises(BadSetting, match=r"cannot read .*keys: No such file"):
        Keys(None, file)
    file.write_text(f"# who\n\nagent:write:{OLD}  # since May\n")
    keys = Keys(f"ops:admin:{OTHER}", file)
    assert find(keys, OLD) and find(keys, OTHER)
    file.write_text(f"agent:write:{NEW}")
    keys.read_again()
    assert find(keys, NEW) and find(keys, OTHER) and not find(keys, OLD)
    for broken in ("agent:write", f"agent:write:{OTHER}"):
        file.write_text(broken)
        keys.read_again()
    assert find(keys, NEW), "what was valid stays so"


async def test_serve_refuses_to_let_everyone_in_from_outside() -> None:
    refused = await command("serve", HOST="0.0.0.0", PORT="0")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == (
        "run-gateway: HOST=0.0.0.0 would let anyone in: set AUTH to keys or jwt,"
        " or GATEWAY_ALLOW_ANONYMOUS=true if that is meant\n"
    )


async def test_serve_refuses_keys_that_are_none() -> None:
    refused = await command("serve", AUTH="keys", GATEWAY_KEYS="agent:write:tell-no-one", PORT="0")
    assert (refused.code, refused.out) == (2, "")
    assert "tell-no-one" not in refused.err


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_sighup_has_the_file_read_again(postgres: Postgres, tmp_path: Path, workers: str) -> None:
    file = tmp_path / "keys"
    file.write_text(f"agent:write,read:{OLD}")
    async with (
        postgres.database() as url,
        Machine.start(url, env={"AUTH": "keys", "GATEWAY_KEYS_FILE": str(file), "GATEWAY_WORKERS": workers}) as machine,
    ):

        async def status(secret: str) -> int:
            async with httpx.AsyncClient() as http:  # a connection of its own: any worker
                answer = await http.get(f"{machine.url}/runs/1", headers={"authorization": f"Bearer {secret}"})
                return answer.status_code

        assert {await status(OLD), await status(NEW)} == {404, 401}
        file.write_text(f"agent:write,read:{NEW}")
        machine.send_signal(signal.SIGHUP)
        async with asyncio.timeout(60):
            while {await status(OLD) for _ in range(8)} != {401}:  # noqa: ASYNC110  another process
                await asyncio.sleep(0.05)
        assert {await status(NEW) for _ in range(8)} == {404}
        assert await machine.terminate() == 0
