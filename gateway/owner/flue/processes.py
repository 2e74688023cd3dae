"""The Machine whose app runs a conversation, by Flue's tables, which are only read.

Flue has one queue for all its servers: any of them may run a message that another one was given (it does, if it looks
in the moment between), and an app may give a conversation a message itself. The conversation lives where it is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.log.database import Database
from gateway.owner.flue.submissions import session

# Flue 2.1.0: a stream's producer is the process that has touched it last. Asked once for each process of the app.
_PRODUCER: Final = "SELECT producer_id FROM flue_conversation_streams WHERE path LIKE 'agents/%/' || $1"
_TELL: Final = """
    WITH gone AS (
        DELETE FROM run_gateway.flue_processes p
         WHERE NOT EXISTS (SELECT FROM run_gateway.owner_lives l WHERE l.life = p.life AND l.ended_at IS NULL)
    )
    INSERT INTO run_gateway.flue_processes (life, owner) VALUES ($1, $2)
        ON CONFLICT (life) DO UPDATE SET owner = excluded.owner
"""
_RUNNING: Final = """
    SELECT s.session_key, l.life
      FROM flue_agent_submissions s
      JOIN run_gateway.flue_processes p ON p.owner = s.owner_id
      JOIN run_gateway.owner_lives l ON l.life = p.life AND l.ended_at IS NULL
     WHERE s.status IN ('running', 'terminalizing')
"""


@dataclass(frozen=True, slots=True)
class Running:
    """A conversation that the app of this life is running. `agent` is Flue's name of it."""

    agent: str
    id: str
    life: int


class Processes:
    """The processes of the Flue app in this database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def tell(self, life: int, probe: str) -> bool:
        """Notes which process belongs to a life: the one that has touched the conversation `probe`. False: none has.

        Raises Unavailable.
        """
        async with self._database.acquire() as connection:
            owner = await connection.fetchval(_PRODUCER, probe)
            if owner is not None:
                await connection.execute(_TELL, life, owner)
        return owner is not None

    async def running(self) -> list[Running]:
        """The conversations that known processes run at the moment. Raises Unavailable."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_RUNNING)
        found = ((session(row["session_key"]), row["life"]) for row in rows)
        return [Running(*named, life) for named, life in found if named is not None]
