"""The gateway itself: real `run-gateway serve` processes over a database of their own, durable as in production."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from gateway.process.machine import Machine, MachineFailed
from loadtests.bench.lab import Lab
from loadtests.bench.peers.peer import Peer
from loadtests.bench.processes import Failed

# Readers stay for as long as they are measured; everything else is as it comes.
ENVIRONMENT = {"GATEWAY_SSE_MAX_AGE": "3600", "GATEWAY_LOG_LEVEL": "warning"}


class Gateway(Peer):
    """One Machine, or several over the same database: `add` starts another."""

    name = "gateway"
    title = "run gateway (durable, Postgres)"
    publish = "/runs/b%r"
    subscribe = "/runs/b%r?offset=0000000000000000_%o&live=sse"
    creates = True
    together = True
    workers = 1
    database = ""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.machines: list[Machine] = []

    @classmethod
    def version(cls) -> str:
        try:
            return f"run-gateway {version('run-gateway')}"
        except PackageNotFoundError:
            return "run-gateway, from its checkout"

    async def start(self) -> None:
        self.database = await self.lab.postgres.create()
        await self.add()
        self.port = self.machines[0].port

    async def add(self) -> Machine:
        """Another Machine over the same database. Raises Failed."""
        machine = Machine({"DATABASE_URL": self.database, "GATEWAY_WORKERS": str(self.workers), **ENVIRONMENT})
        try:
            await machine.launch()
        except MachineFailed as error:
            raise Failed(str(error)) from error
        self.machines.append(machine)
        return machine

    async def another(self) -> int:
        return (await self.add()).port

    async def crash_server(self) -> None:
        machine = self.machines[0]
        await machine.kill()
        await machine.launch()
        self.port = machine.port

    async def crash_store(self) -> None:
        await self.lab.postgres.crash()

    async def stop(self) -> None:
        for machine in self.machines:
            await machine.kill()
        if self.database:
            await self.lab.postgres.drop(self.database)

    def pids(self) -> list[int]:
        return [machine.pid for machine in self.machines]


class GatewayByPosts(Gateway):
    """The gateway, and clients who do not know that appends can go together."""

    name = "gateway-posts"
    title = "run gateway, a POST for each append"
    together = False


class GatewayOfTwo(Gateway):
    """`serve --workers 2`: two Machines behind one port, which tell each other of every append."""

    name = "gateway-2"
    title = "run gateway, two workers"
    workers = 2

    async def stop(self) -> None:
        for machine in self.machines:
            await machine.end()  # the parent alone can be killed: its workers would still be there for a moment
        await super().stop()
