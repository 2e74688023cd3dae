"""Real Machines for tests: `async with Machine.start(url) as machine`, which ends with the block."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from gateway.process.machine import Machine as Process


def free_port() -> int:
    """A port that is free now; who listens on it next is a matter of luck, so prefer port 0."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Machine(Process):
    """A `run-gateway serve` process with `url`, `port`, `pid`, `log`, `kill`, `terminate`, `wait`."""

    @classmethod
    @asynccontextmanager
    async def start(
        cls, database_url: str | None, *, env: Mapping[str, str] | None = None, port: int = 0
    ) -> AsyncIterator[Machine]:
        """A Machine over this database; None is the embedded one, in the GATEWAY_DATA_DIR of env.

        It drains within a second, unless env says otherwise: live responses end spread over the drain time.
        """
        settings = {"PORT": str(port), "GATEWAY_DRAIN_TIMEOUT": "1", **(env or {})}
        if database_url is not None:
            settings["DATABASE_URL"] = database_url
        machine = cls(settings)
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
