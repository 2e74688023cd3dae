"""What a Machine does not use is not imported: it is ready the sooner, and smaller."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest

from gateway.app import Gateway
from gateway.http.later import Later
from gateway.settings import load

SERVE = "import gateway.cli.serve, gateway.process.serve, gateway.process.server, gateway.app"
MADE = "from gateway.settings import load; gateway.app.Gateway(load(), 'postgres://nowhere')"
UNUSED = {
    *("fastapi", "httpx", "httpcore", "cryptography", "jwt", "prometheus_client", "zstandard", "opentelemetry"),
    *("run_gateway", "gateway.embedded", "gateway.flue", "gateway.owner", "gateway.relay", "gateway.tracing"),
    *("difflib", "gateway.http.openapi.document", "gateway.http.upstream", "gateway.subscriptions.webhooks"),
}


ASKED = """
import asyncio
from gateway.http.informational import Backend

async def ask():
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1") as server:
        stream = await Backend().connect_tcp(*server.sockets[0].getsockname())
        await stream.aclose()
"""


async def imported(program: str) -> set[str]:
    """The modules that an interpreter has after this."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"import sys; {program}; print(*sys.modules)",
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return set(out.decode().split())


async def test_serve_imports_no_more_than_it_uses() -> None:
    found = await imported(f"{SERVE}; {MADE}")
    assert {"gateway.app", "uvicorn", "asyncpg"} <= found
    assert found & UNUSED == set()


async def test_a_command_imports_no_other_command() -> None:
    found = await imported("from gateway.cli import main; main.get_command(None, 'serve')")
    assert {name for name in found if name.startswith("gateway.cli.")} == {"gateway.cli.serve"}


async def test_a_request_to_the_application_imports_nothing() -> None:
    """It would take longer than a turn of the loop may."""
    before, after = await asyncio.gather(*(imported(f"exec({ASKED + end!r})") for end in ("", "asyncio.run(ask())")))
    assert {name for name in after - before if name.startswith(("anyio", "httpcore"))} == set()


def test_what_a_setting_asks_for_is_there() -> None:
    relaying = Gateway(load(upstream="http://127.0.0.1:1", relay="ai-sdk:/chat", owned="/agents/{id}"), "postgres://no")
    assert relaying._application.relay is not None and relaying._application.owner is not None
    plain = Gateway(load(), "postgres://no")
    behind = plain._application
    assert (behind.relay, behind.owner, behind.upstream) == (None, None, None)


async def test_what_is_made_later_is_made_once_for_all() -> None:
    made = []

    def make() -> str:
        time.sleep(0.01)  # so that all who ask find it under way
        made.append(1)
        return "app"

    later = Later(make)
    assert await asyncio.gather(*(later() for _ in range(20))) == ["app"] * 20
    assert (later.now(), made) == ("app", [1])


async def test_what_could_not_be_made_is_tried_again() -> None:
    broken = [True]

    def make() -> str:
        if broken.pop():
            broken.append(False)
            raise OSError("no descriptors")
        return "app"

    later = Later(make)
    with pytest.raises(OSError, match="no descriptors"):
        await later()
    assert await later() == "app"
