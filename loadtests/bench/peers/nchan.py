"""Nchan: publish and subscribe in C, inside nginx, with one worker. It keeps nothing on disk."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from loadtests.bench.peers.peer import Single

TEMPLATE = Path(__file__).with_name("nchan.conf")
MODULE = "ngx_nchan_module.so"


def nginx() -> str | None:
    """BENCH_NGINX, or the one of the system."""
    return os.environ.get("BENCH_NGINX") or shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def module() -> Path | None:
    """Beside the given nginx, for packages that were only unpacked; or where Debian puts it."""
    program = nginx()
    roots = [Path(program).parents[2], Path("/")] if program else []
    return next((path for root in roots if (path := root / "usr/lib/nginx/modules" / MODULE).exists()), None)


class Nchan(Single):
    name = "nchan"
    title = "Nchan (C, in nginx)"
    publish = "/pub/%r"
    subscribe = "/sub/%r"

    @classmethod
    def missing(cls) -> str | None:
        return None if nginx() and module() else "nginx with Nchan (Debian: apt install nginx libnginx-mod-nchan)"

    @classmethod
    def version(cls) -> str:
        said = subprocess.run([str(nginx()), "-v"], capture_output=True, text=True, check=False).stderr
        found = re.search(r"nginx/(\S+)", said)
        package = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan"], capture_output=True, text=True, check=False
        ).stdout
        return f"nginx {found[1] if found else '?'}, Nchan {package or os.environ.get('BENCH_NCHAN_VERSION', '?')}"

    async def command(self) -> list[str]:
        prefix = self.lab.folder / "nginx"
        prefix.mkdir(exist_ok=True)
        prefix.chmod(0o755)
        config = prefix / "nginx.conf"
        values = {"PORT": str(self.port), "MODULE": str(module()), "PREFIX": str(prefix)}
        config.write_text(re.sub(r"@(\w+)@", lambda found: values[found[1]], TEMPLATE.read_text()))
        return [str(nginx()), "-p", str(prefix), "-c", str(config), "-e", str(prefix / "error.log")]
