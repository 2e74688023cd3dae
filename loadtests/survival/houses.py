"""An application at each Machine, with sessions in memory, whose conversations have one owner each; and who owned what.

The applications write each message down as it reaches them, and the database each change of an owner: what neither of
them knows of the other is compared. Both go by this host's clock, which no fault sets for them.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.survival.ledger import Findings
from loadtests.survival.owning import Epoch, Write, judge_owners
from tests.owner.apps import App
from tests.tools.database import GONE, Database
from tests.tools.proxy import Proxy

if TYPE_CHECKING:
    from loadtests.survival.talks import Talk

LEASE = 2.0  # seconds
_SETTINGS = {
    "GATEWAY_OWNED": "/chat/{id}",
    "GATEWAY_OWNED_LEASE": str(LEASE),
    "GATEWAY_OWNED_DRAIN": "3",
}
# As the owner's own commit: who cannot write it down owns nothing.
_WATCH = """
    CREATE TABLE public.owners (at timestamptz NOT NULL, id bytea NOT NULL, epoch bigint NOT NULL, app text NOT NULL);
    CREATE FUNCTION public.note_owner() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO public.owners
        SELECT clock_timestamp(), NEW.id, NEW.epoch, l.app FROM run_gateway.owner_lives l WHERE l.life = NEW.life;
        RETURN NULL;
    END
    $$;
    CREATE TRIGGER note_owner AFTER INSERT OR UPDATE ON run_gateway.owned
        FOR EACH ROW EXECUTE FUNCTION public.note_owner();
"""
_OWNERS = "SELECT extract(epoch FROM at)::float8 AS at, id, epoch, app FROM public.owners"


@dataclass
class House:
    """`app` behind a Machine, which others reach by way of `between`. `words`: what the kernel has called its sockets,
    and which process that was.
    """

    app: App
    between: Proxy
    words: dict[str, int]

    @property
    def settings(self) -> Mapping[str, str]:
        return {**_SETTINGS, "GATEWAY_UPSTREAM": self.app.url, "GATEWAY_ADVERTISE": self.between.url}

    async def launch(self) -> None:
        await self.app.launch()
        self.words[_listening(self.app.port)] = self.app.pid


@dataclass
class Houses:
    """All of them, and their conversations."""

    database: Database
    journal: Path
    all: list[House] = field(default_factory=list)
    words: dict[str, int] = field(default_factory=dict)
    talks: list[Talk] = field(default_factory=list)

    async def owners(self) -> dict[str, list[Epoch]]:
        """Who has owned each conversation, in the order of its epochs."""
        while True:
            try:
                async with self.database.connection() as connection:
                    rows = await connection.fetch(_OWNERS)
                break
            except GONE:
                await asyncio.sleep(0.2)
        off = time.time() - time.monotonic()
        found: dict[str, list[Epoch]] = defaultdict(list)
        for row in sorted(rows, key=lambda row: row["epoch"]):
            found[row["id"].decode()].append(Epoch(row["epoch"], self.words.get(row["app"], 0), row["at"] - off))
        return found

    def writes(self) -> dict[str, list[Write]]:
        """What has reached the applications, in the order of time."""
        found: dict[str, list[Write]] = defaultdict(list)
        for line in self.journal.read_text().splitlines():
            read = json.loads(line)
            if read["what"] in ("begun", "written"):
                text = json.loads(read["text"])["text"] if read["what"] == "written" else None
                found[read["id"]].append(Write(read["pid"], read["at"], text))
        for writes in found.values():
            writes.sort(key=lambda write: write.at)
        return found

    async def judge(self, talks: Sequence[Talk] | None = None) -> Findings:
        """Everything that is wrong with these conversations, or with all."""
        owners, writes, findings = await self.owners(), self.writes(), Findings()
        for talk in self.talks if talks is None else talks:
            findings.include(talk.account.judge(writes[talk.key]))
            findings.include(judge_owners(talk.key, writes[talk.key], owners[talk.key]))
            talk.epochs = len(owners[talk.key])
        return findings


def _listening(port: int) -> str:
    """What the kernel calls the socket that listens at a port of 127.0.0.1."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *rest = line.split()
        if state == "0A" and local == f"0100007F:{port:04X}":
            return rest[5]
    raise LookupError(port)


@asynccontextmanager
async def open_houses(database: Database, folder: Path, count: int) -> AsyncIterator[Houses]:
    """So many, until the block ends."""
    async with database.connection() as connection:
        await connection.execute(_WATCH)
    journal = folder / "journal"
    journal.touch()
    houses = Houses(database, journal)
    async with AsyncExitStack() as stack:
        for _ in range(count):
            app = App(journal)
            stack.push_async_callback(app.kill)
            between = await stack.enter_async_context(Proxy("http://127.0.0.1:9"))
            houses.all.append(House(app, between, houses.words))
            await houses.all[-1].launch()
        yield houses
