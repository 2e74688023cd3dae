"""Forks of forks: what one takes of the log is counted, and grows no faster than the chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import asyncpg
import httpx
import pytest

from tests.log.rig import Log, connected, opened
from tests.servers import PATIENCE, serving

CHAIN = 40
SPARE = 12  # rows and entries that one call or another looks at more than the first
FORK = (
    "SELECT verdict FROM run_gateway.make_stream_v2($1, NULL, NULL, NULL, NULL, NULL, false, $2, NULL, NULL, '{}',"
    " NULL, 100, 100, '{}', '{}', '{}', '{}')"
)
APPEND = "SELECT run_gateway.append($1, '1')"
LAST = "SELECT until FROM run_gateway.read_page($1, NULL, 1, 65536, false)"
WHOLE = "SELECT until FROM run_gateway.read_page($1, 0, NULL, 65536, false)"
LINEAGE = "SELECT coalesce(sum(cardinality(lineage)), 0)::bigint FROM run_gateway.streams"
WORK = """
    SELECT coalesce(sum(seq_tup_read), 0)::bigint + coalesce(sum(idx_tup_fetch), 0)::bigint +
           (SELECT coalesce(sum(pg_stat_get_xact_tuples_returned(i.indexrelid)), 0)::bigint FROM pg_index i
             JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = 'run_gateway'::regnamespace) AS read,
           coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint AS written
      FROM pg_stat_xact_user_tables WHERE schemaname = 'run_gateway'
"""


@dataclass(frozen=True)
class Work:
    """What one call looks at, rows and entries of indexes, and what it writes."""

    read: int
    written: int


async def work(database: asyncpg.Connection[asyncpg.Record], statement: str, *arguments: object) -> Work:
    async with database.transaction():
        before = await database.fetchrow(WORK)
        await database.execute(statement, *arguments)
        after = await database.fetchrow(WORK)
    assert before is not None and after is not None
    return Work(after["read"] - before["read"], after["written"] - before["written"])


async def chained(
    log: Log, database: asyncpg.Connection[asyncpg.Record], *, appended: bool
) -> Mapping[str, list[Work]]:
    """A fork, that one's fork and so on, each with an event of its own or with none; and what it took, by call."""
    await log.create("f0", body=b"[1]")
    found: dict[str, list[Work]] = {"fork": [], "last": [], "whole": []}
    for n in range(1, CHAIN + 1):
        found["fork"].append(await work(database, FORK, f"f{n}", f"f{n - 1}"))
        if appended:
            await database.execute(APPEND, f"f{n}")
        found["last"].append(await work(database, LAST, f"f{n}"))
        found["whole"].append(await work(database, WHOLE, f"f{n}"))
    assert (await log.reader.stat(f"f{CHAIN}")).tail == (CHAIN + 1 if appended else 1)
    return found


async def test_a_chain_of_plain_forks_has_one_lineage(database_url: str) -> None:
    """None of them adds an event: each inherits from the first alone, and is read as that is."""
    async with opened(database_url) as log, connected(database_url) as database:
        found = await chained(log, database, appended=False)
        assert await database.fetchval(LINEAGE) == CHAIN, "one stream each, of which it has its events"
        for call in ("last", "whole"):
            assert max(each.read for each in found[call]) <= found[call][0].read + SPARE, call
        assert {each.written for each in found["fork"]} == {found["fork"][0].written}


async def test_a_fork_takes_a_step_for_each_below_it(database_url: str) -> None:
    """Each adds an event. The chain's depth is looked at when a fork is made, and its events when all are read."""
    async with opened(database_url) as log, connected(database_url) as database:
        found = await chained(log, database, appended=True)
        assert await database.fetchval(LINEAGE) == CHAIN * (CHAIN + 1) // 2, "an entry for each source, none twice"
        most = found["last"][0].read + SPARE
        assert max(each.read for each in found["last"]) <= most, "the last event is its own"
        for call in ("fork", "whole"):
            for n, each in enumerate(found[call]):
                assert each.read <= found[call][0].read + SPARE + 4 * n, (call, n)
        assert {each.written for each in found["fork"]} == {found["fork"][0].written}


@pytest.mark.parametrize(("cut", "copied"), [(4, 4), (6, 0)])
async def test_what_a_fork_copies_counts_as_appended(database_url: str, cut: int, copied: int) -> None:
    """As a fork in the middle of an append does, over HTTP; one that takes a whole append copies nothing."""
    text = {"content-type": "text/plain"}
    forked = {"stream-forked-from": "/v1/stream/s", "stream-fork-offset": f"{0:016}_{0:016}"}
    with serving(database_url, "direct") as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE, headers=text) as http:
            assert (await http.put("/v1/stream/s", content=b"abcdef")).status_code == 201
            before = await appended(http)
            headers = {**forked, "stream-fork-sub-offset": str(cut)}
            for _ in range(2):  # the second finds it there, and copies nothing
                assert (await http.put("/v1/stream/t", headers=headers)).status_code in (200, 201)
            assert (await http.get("/v1/stream/t?offset=-1")).content == b"abcdef"[:cut]
            assert await appended(http) == before + copied


async def appended(http: httpx.AsyncClient) -> int:
    """Bytes that this Machine has appended, as it tells itself."""
    page = (await http.get("/metrics")).text
    (line,) = [line for line in page.splitlines() if line.startswith("run_gateway_appended_bytes_total")]
    return int(float(line.split()[1]))
