"""What is measured: ways from a client to an agent server, each with its processes. Started once, ended together."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.process.machine import Machine
from loadtests.bench.postgres import Postgres
from loadtests.bench.processes import Cpu, Failed, Process, cpu, free_port

HERE = Path(__file__).parent
NODE = HERE / "node"
PACKAGE = NODE / "node_modules" / "resumable-stream" / "package.json"
INSTALL_PATIENCE = 300.0

Weigh = Callable[[], Cpu]


@dataclass(frozen=True)
class Way:
    """Where clients ask, and where those who come back do (0: nobody does). `weighed`: the CPU of its parts, by their
    names; `pids`: the processes whose memory counts.
    """

    name: str
    port: int
    returns: int
    weighed: Mapping[str, Weigh]
    pids: Sequence[int]


ALL = ("direct", "upstream", "nginx", "relay", "relay+follower", "node", "resumable", "resumable+follower")


class Lab:
    """Starts what a way needs, when it is first asked for."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._agent = 0
        self._postgres: Postgres | None = None
        self._database = ""
        self._machines: dict[str, Machine] = {}
        self._others: dict[str, tuple[Process, int]] = {}

    async def way(self, name: str) -> Way | str:
        """The way of that name; or what is missing for it."""
        kind, follower = name.split("+")[0], name.endswith("+follower")
        match kind:
            case "direct":
                return Way(name, await self.agent(), 0, {}, ())
            case "nginx":
                return await self._nginx()
            case "upstream" | "relay":
                machines = [await self._machine(kind), *([await self._machine("other")] if follower else [])]
                assert self._postgres is not None, "the machines are in front of it"
                pids = [machine.pid for machine in machines]
                weighed = {"gateway": lambda: cpu(pids), "Postgres": self._postgres.cpu}
                return Way(name, machines[0].port, machines[-1].port if follower else 0, weighed, pids)
            case _:
                return await self._node(name, plain=kind == "node", follower=follower)

    async def agent(self) -> int:
        """The port of the agent server."""
        if not self._agent:
            self._agent = free_port()
            command = [sys.executable, "-m", "loadtests.relay.agent", str(self._agent)]
            await self._start("agent", command, self._agent)
        return self._agent

    async def _machine(self, name: str) -> Machine:
        if self._postgres is None:
            self._postgres = await self._stack.enter_async_context(Postgres(self._folder))
            self._database = await self._postgres.create()
        if name not in self._machines:
            relay = {} if name == "upstream" else {"GATEWAY_RELAY": "ai-sdk:/api/chat", "GATEWAY_RELAY_DRAIN": "0"}
            upstream = f"http://127.0.0.1:{await self.agent()}"
            env = {"DATABASE_URL": self._database, "GATEWAY_UPSTREAM": upstream, "GATEWAY_DRAIN_TIMEOUT": "0"}
            machine = self._machines[name] = Machine(env | relay)
            await machine.launch()
            self._stack.push_async_callback(machine.end)
        return self._machines[name]

    async def _nginx(self) -> Way | str:
        program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin")
        if program is None:
            return "nginx (Debian: apt install nginx)"
        port = self._others["nginx"][1] if "nginx" in self._others else free_port()
        if "nginx" not in self._others:
            prefix = self._folder / "nginx"
            prefix.mkdir()
            prefix.chmod(0o755)
            values = {"PORT": str(port), "UPSTREAM": str(await self.agent()), "PREFIX": str(prefix)}
            config = prefix / "nginx.conf"
            template = (HERE / "nginx.conf").read_text()
            config.write_text(re.sub(r"@(\w+)@", lambda found: values[found[1]], template))
            command = [program, "-p", str(prefix), "-c", str(config), "-e", str(prefix / "error.log")]
            await self._start("nginx", command, port)
        pids = [self._others["nginx"][0].pid]
        return Way("nginx", port, 0, {"nginx": lambda: cpu(pids)}, pids)

    async def _node(self, name: str, *, plain: bool, follower: bool) -> Way | str:
        missing = [program for program in ("node", "npm", "redis-server") if shutil.which(program) is None]
        if missing:
            return f"{' and '.join(missing)} (Debian: apt install nodejs npm redis)"
        if not PACKAGE.exists():
            await install(self._folder / "npm.log")
        if plain:
            first = await self._app("node", ["plain"], {})
            return Way(name, first[1], 0, {"Node": lambda: cpu([first[0].pid])}, [first[0].pid])
        if "redis" not in self._others:
            port = free_port()
            command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
            await self._start("redis", command, port)
        redis, port = self._others["redis"]
        env = {"REDIS_URL": f"redis://127.0.0.1:{port}"}
        apps = [await self._app("resumable", [], env)]
        if follower:
            apps.append(await self._app("resumable-other", [], env))
        pids = [process.pid for process, _ in apps]
        weighed = {"Node": lambda: cpu(pids), "Redis": lambda: cpu([redis.pid])}
        return Way(name, apps[0][1], apps[-1][1] if follower else 0, weighed, [*pids, redis.pid])

    async def _app(self, name: str, arguments: list[str], env: Mapping[str, str]) -> tuple[Process, int]:
        if name not in self._others:
            port = free_port()
            await self._start(name, ["node", str(NODE / "app.mjs"), str(port), *arguments], port, env)
        return self._others[name]

    async def _start(self, name: str, command: Sequence[str], port: int, env: Mapping[str, str] | None = None) -> None:
        process = await Process.start(command, self._folder / f"{name}.log", env=env)
        self._stack.push_async_callback(process.stop)
        await process.listening(port)
        self._others[name] = process, port


@asynccontextmanager
async def lab() -> AsyncIterator[Lab]:
    """A lab in which nothing is started yet."""
    async with AsyncExitStack() as stack:
        yield Lab(Path(stack.enter_context(tempfile.TemporaryDirectory())), stack)


def version() -> str:
    """Of what the agent server in Node uses."""
    return f"resumable-stream {json.loads(PACKAGE.read_text())['version']}" if PACKAGE.exists() else "not installed"


async def install(log: Path) -> None:
    """`npm ci`. Raises Failed."""
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    process = await Process.start(command, log, cwd=NODE)
    try:
        await process.end(INSTALL_PATIENCE)
    finally:
        await process.stop()
    if not PACKAGE.exists():
        raise Failed(f"npm ci: {process.said()}")
