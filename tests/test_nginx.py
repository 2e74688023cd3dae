"""The README's configuration of nginx, run as it stands there: what it must not do is hold events back."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.machines import Machine, free_port

README = Path(__file__).parent.parent / "README.md"
PROGRAM = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
JSON = {"content-type": "application/json"}
MAIN = """daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; {account}
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {text}
}}
"""


@pytest.fixture
async def url(database_url: str, tmp_path: Path) -> AsyncIterator[str]:
    """Where nginx listens, in front of one Machine."""
    if PROGRAM is None:
        assert "CI" not in os.environ, "CI installs nginx"
        pytest.skip("nginx is not installed")
    text = re.search(r"```nginx\n(.*?)```", README.read_text(), re.DOTALL)
    assert text is not None
    port = free_port()
    async with Machine.start(database_url) as machine:
        there = text[1].replace("127.0.0.1:8080", f"127.0.0.1:{machine.port}").replace("listen 80", f"listen {port}")
        config = tmp_path / "nginx.conf"
        account = "user root;" if os.getuid() == 0 else ""  # else it gives its folders away
        config.write_text(MAIN.format(folder=tmp_path, account=account, text=there))
        process = await asyncio.create_subprocess_exec(PROGRAM, "-c", str(config), "-e", str(tmp_path / "error.log"))
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            await process.wait()


async def answered(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                assert (await http.get("/health")).status_code == 200
            except httpx.ConnectError:
                await asyncio.sleep(0.02)
            else:
                return


async def test_events_come_as_they_are_appended_links_lead_back_and_large_bodies_pass(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        await answered(http)
        made = (await http.post("/runs", json={"id": "1"})).json()
        assert made["streamUrl"] == f"{url}/runs/1"
        async with http.stream("GET", "/runs/1?offset=-1&live=sse") as sse:
            lines = sse.aiter_lines()
            for word in ("first", "second"):  # each is read before the next is appended
                assert (await http.post("/runs/1", headers=JSON, json=word)).status_code == 204
                async with asyncio.timeout(60):
                    while await anext(lines) != f'data:["{word}"]':
                        pass
        assert (await http.post("/runs/1", headers=JSON, json="x" * 2_000_000)).status_code == 204
