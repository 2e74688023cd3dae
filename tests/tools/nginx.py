"""nginx with what a test writes into its one server, on a free port of loopback."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.machines import free_port
from tests.manual import manual
from tests.node import unavailable

_TEXT: Final = """daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; {account}
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {outside}
    server {{ listen 127.0.0.1:{port}; {server} }}
}}
"""


def cached(gateway: str, folder: Path) -> tuple[str, str]:
    """The cache that the manual puts in front of a gateway: what its server says, and what stands before that."""
    found = re.search(r"```nginx\n(proxy_cache_path.*?)```", manual("http"), re.DOTALL)
    assert found is not None
    text = found[1].replace("/var/cache/nginx/runs", str(folder / "kept")).replace("http://run_gateway", gateway)
    outside, server = text.split("server {\n", 1)
    return re.sub(r" *listen 80;\n", "", server.rstrip().removesuffix("}")), outside


@asynccontextmanager
async def nginx(folder: Path, server: str, outside: str = "", *, connections: int = 512) -> AsyncIterator[str]:
    """Its address. `folder` is its own. `outside`: what stands before its server. Without
    nginx the test is skipped; in CI it fails."""
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin") or unavailable(
        "nginx is not installed"
    )
    port = free_port()
    account = "user root;" if os.getuid() == 0 else ""  # else nginx gives its folders away
    (folder / "nginx.conf").write_text(
        _TEXT.format(folder=folder, account=account, port=port, server=server, outside=outside, connections=connections)
    )
    process = await asyncio.create_subprocess_exec(
        program, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log"), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(60):
            while True:
                assert process.returncode is None, (folder / "error.log").read_text()
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)
                    continue
                writer.close()
                break
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()
