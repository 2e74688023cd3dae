"""The durability that the database promises, by its settings: told at start and on `/ready`, and never changed here.

`synchronous_commit = off` costs the log nothing (its transactions set it on); the others lose what was acknowledged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.log.connect import Connection
    from gateway.log.database import Pooled

# pg_control_… may be forbidden; a role that may not call them is not told.
_ASK: Final = """
    SELECT current_setting('server_version') AS version,
           current_setting('synchronous_commit') AS synchronous_commit,
           current_setting('synchronous_standby_names') AS synchronous_standby_names,
           current_setting('fsync')::boolean AS fsync,
           current_setting('full_page_writes')::boolean AS full_page_writes,
           CASE WHEN has_function_privilege('pg_control_system()', 'EXECUTE')
                THEN (SELECT system_identifier::text FROM pg_control_system()) END AS system_identifier,
           CASE WHEN has_function_privilege('pg_control_checkpoint()', 'EXECUTE')
                THEN (SELECT timeline_id FROM pg_control_checkpoint()) END AS timeline
"""


@dataclass(frozen=True, slots=True)
class Durability:
    """The server, and its settings that decide what a crash or a failover may lose."""

    version: str
    synchronous_commit: str
    synchronous_standby_names: str
    fsync: bool
    full_page_writes: bool
    system_identifier: str | None  # more than a double holds
    timeline: int | None  # as of its last checkpoint

    def __str__(self) -> str:
        told = [
            f"Postgres {self.version}",
            f"synchronous_commit {self.synchronous_commit}",
            f"fsync {_switch(self.fsync)}",
            f"full_page_writes {_switch(self.full_page_writes)}",
            f"synchronous standbys {self.synchronous_standby_names or 'none'}",
        ]
        if self.system_identifier is not None:
            told.append(f"system {self.system_identifier}")
        if self.timeline is not None:
            told.append(f"timeline {self.timeline}")
        return ", ".join(told)

    @property
    def warnings(self) -> list[str]:
        """Sentences on each setting that an operator has to know of."""
        said = []
        if not self.fsync:
            said.append("The database runs with fsync off: a crash of its host loses what was acknowledged.")
        if not self.full_page_writes:
            said.append("The database runs with full_page_writes off: a crash of its host may damage what is stored.")
        if self.synchronous_commit == "off":
            said.append("The database has synchronous_commit off: transactions of the log set it on for themselves.")
        return said


READ_ONLY: Final = (
    "The database takes no writes, since it is a standby or default_transaction_read_only is on: appends are answered"
    " 503, and reads go on."
)


async def is_read_only(connection: Connection | Pooled) -> bool:
    """Whether a session takes no writes, a standby's or another's. Raises what the driver raises."""
    return await connection.fetchval("SELECT current_setting('transaction_read_only')::boolean") is True


async def ask(connection: Connection | Pooled) -> Durability:
    """Asks a connection's server and session. Raises what the driver raises."""
    row = await connection.fetchrow(_ASK)
    assert row is not None, "such a statement gives one row"
    return Durability(**row)


def _switch(on: bool) -> str:
    return "on" if on else "off"
