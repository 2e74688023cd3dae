"""The Durable Streams reference server (Node), with its store in memory or in files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from loadtests.bench.peers.peer import Single
from loadtests.bench.processes import Failed, Process

HERE = Path(__file__).parent
PACKAGE = HERE / "node_modules" / "@durable-streams" / "server" / "package.json"
INSTALL_PATIENCE = 300.0


class ReferenceMemory(Single):
    """Its packages are installed on first use, as the lock file says."""

    name = "reference"
    title = "Durable Streams reference server, in memory"
    publish = "/v1/stream/b%r"
    subscribe = "/v1/stream/b%r?offset=0000000000000000_%o&live=sse"
    creates = True

    @classmethod
    def missing(cls) -> str | None:
        if shutil.which("node") is None or shutil.which("npm") is None:
            return "Node.js with npm"
        return None

    @classmethod
    def version(cls) -> str:
        if not PACKAGE.exists():
            return "not installed"
        return f"@durable-streams/server {json.loads(PACKAGE.read_text())['version']}"

    async def command(self) -> list[str]:
        if not PACKAGE.exists():
            await install(self.lab.folder / "npm.log")
        return ["node", str(HERE / "reference.mjs"), str(self.port), *self.store()]

    def store(self) -> list[str]:
        return []


class ReferenceFiles(ReferenceMemory):
    name = "reference-files"
    title = "Durable Streams reference server, file store"

    def store(self) -> list[str]:
        folder = self.lab.folder / "reference"
        shutil.rmtree(folder, ignore_errors=True)
        return [str(folder)]


async def install(log: Path) -> None:
    """`npm ci`. Raises Failed."""
    # No scripts: everything native among the packages comes built.
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    process = await Process.start(command, log, cwd=HERE)
    try:
        await process.end(INSTALL_PATIENCE)
    finally:
        await process.stop()
    if not PACKAGE.exists():
        raise Failed(f"npm ci: {process.said()}")
