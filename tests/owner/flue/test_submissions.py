"""What a Flue app has to do, as its table says: which conversations are busy, and which nobody works on."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from gateway.log.database import Database
from gateway.owner.flue.submissions import QUEUED, Submissions, session
from tests.databases import Postgres

TABLES = (Path(__file__).parent / "tables.sql").read_text()


@dataclass
class Flue:
    """The table, and what is asked of it."""

    connection: asyncpg.Connection[asyncpg.Record]
    submissions: Submissions

    async def admitted(
        self, id: str, status: str, *, ago: float = 0.0, lease: float = 0.0, agent: str = "Chat"
    ) -> None:
        """A submission that was accepted `ago` seconds ago; its lease ends in `lease` seconds; 0: it has none."""
        now = time.time()
        await self.connection.execute(
            "INSERT INTO flue_agent_submissions (submission_id, session_key, kind, payload, status, accepted_at,"
            " lease_expires_at) VALUES ($1, $2, 'direct', '{}', $3, $4, $5)",
            uuid4().hex,
            f"agent-session:{json.dumps([agent, id, 'default', 'default'], ensure_ascii=False)}",
            status,
            round((now - ago) * 1000),
            round((now + lease) * 1000) if lease else 0,
        )

    async def stranded(self) -> list[str]:
        return sorted(each.id for each in await self.submissions.stranded())


@pytest.fixture
async def flue(postgres: Postgres) -> AsyncIterator[Flue]:
    async with postgres.database() as url, Database(url, pool_size=1, statement_timeout=30) as database:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(TABLES)
            yield Flue(connection, Submissions(database))
        finally:
            await connection.close()


async def test_a_conversation_is_busy_until_all_is_settled(flue: Flue) -> None:
    for status in ("queued", "running", "terminalizing", "joining", "joined", "settled"):
        await flue.admitted(status, status)
    await flue.admitted("twice", "settled")
    await flue.admitted("twice", "queued")
    await flue.admitted('a/b é " \\', "running")
    asked = ["queued", "running", "terminalizing", "joining", "joined", "settled", "twice", "never", 'a/b é " \\']
    busy = await flue.submissions.busy([id.encode() for id in asked])
    assert sorted(id.decode() for id in busy) == sorted({*asked} - {"settled", "never"})


async def test_a_submission_is_stranded_when_its_lease_has_passed(flue: Flue) -> None:
    await flue.admitted("lives", "running", lease=30)
    await flue.admitted("dead", "running", lease=-3)
    await flue.admitted("ending", "terminalizing", lease=-40)
    await flue.admitted("done", "settled", lease=-3)
    assert await flue.stranded() == ["dead", "ending"]
    late = {each.id: each.late for each in await flue.submissions.stranded()}
    assert late["ending"] > 40 > late["dead"] > 3


async def test_the_first_in_a_line_does_not_wait_for_long(flue: Flue) -> None:
    await flue.admitted("just", "queued")
    await flue.admitted("left", "queued", ago=QUEUED + 1)
    await flue.admitted("behind", "running", lease=30)
    await flue.admitted("behind", "queued", ago=QUEUED + 1)
    await flue.admitted("after", "settled")
    await flue.admitted("after", "queued", ago=QUEUED + 1)
    assert await flue.stranded() == ["after", "left"]


async def test_nothing_is_written_to_the_table(flue: Flue) -> None:
    await flue.admitted("dead", "running", lease=-3)
    before = await flue.connection.fetch("SELECT xmin, * FROM flue_agent_submissions")
    await flue.submissions.busy([b"dead"])
    await flue.stranded()
    assert await flue.connection.fetch("SELECT xmin, * FROM flue_agent_submissions") == before


@pytest.mark.parametrize("form", ["", "x", "{}", "[]", '["Chat"]', "[1,2]", r'["Chat","\ud800"]'])
def test_a_session_of_another_form_is_none(form: str) -> None:
    assert session(f"agent-session:{form}") is None
