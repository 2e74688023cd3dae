"""Real Machines for tests: `async with Machine.start(url) as machine`, which ends with the block."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from gateway.process.machine import Machine as Executed
from gateway.process.machine import Process
from tests.tools.forks import can_fork, fork


def free_port() -> int:
    """A port that is free now; who listens on it next is a matter of luck, so prefer port 0."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Machine(Executed):
    """A `run-gateway serve` process with `url`, `port`, `pid`, `log`, `kill`, `terminate`, `wait`."""

    executed = False  # begun by an interpreter of its own, as an operator begins it, and not forked from one

    @classmethod
    @asynccontextmanager
    async def start(
        cls, database_url: str | None, *, env: Mapping[str, str] | None = None, port: int = 0, executed: bool = False
    ) -> AsyncIterator[Machine]:
        """A Machine over this database; None is the embedded one, in the GATEWAY_DATA_DIR of env.

        It drains within a second, unless env says otherwise: live responses end spread over the drain time.
        """
        settings = {"PORT": str(port), "GATEWAY_DRAIN_TIMEOUT": "1", **(env or {})}
        if database_url is not None:
            settings["DATABASE_URL"] = database_url
        machine = cls(settings)
        machine.executed = executed
        try:
            await machine.launch()
            yield machine
        except BaseException as error:
            error.add_note(f"--- the Machine said:\n{machine.log}---")
            raise
        finally:
            # Nobody waits for a clean end here, except a database that is the Machine's own.
            await (machine.end() if database_url is None else machine.kill())

    async def restart(self) -> None:
        """Ends the process, if it still runs, and starts another one on the same port."""
        await self.end()
        self._env["PORT"] = str(self.port)
        await self.launch()

    async def _begun(self, program: str, env: Mapping[str, str]) -> Process:
        if can_fork(env) and not self.executed:
            return await fork(program, ["serve"], env)
        return await super()._begun(program, env)
