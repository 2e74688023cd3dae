"""A transaction that was left idle holds the rows of streams: only those who write to them notice."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.protocol import errors
from tests.log.rig import connected, holding, opened

HELD = [f"held-{number}" for number in range(8)]  # more than there are lanes, or connections
OTHERS = [f"other-{number}" for number in range(8)]


async def test_appends_to_held_streams_are_refused_and_others_go_on(database_url: str) -> None:
    async with asyncio.timeout(60), opened(database_url, timeout=4) as log:
        for path in (*HELD, *OTHERS):
            await log.create(path, ttl=3600)
        async with holding(database_url, *HELD):
            began = time.monotonic()
            stuck = [asyncio.create_task(log.append(path, b"%d" % n)) for n in range(3) for path in HELD]
            for n in range(10):
                await asyncio.gather(*(log.append(path, b"%d" % n) for path in (*OTHERS,)))
            assert not any(task.done() for task in stuck), "the others did not wait for them to give up"
            assert (await log.reader.read(HELD[0], 0)).batch.empty, "its TTL cannot slide, but it can be read"
            await log.reader.touch([*HELD, *OTHERS])
            outcomes = await asyncio.gather(*stuck, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {errors.StreamHeld}
            assert time.monotonic() - began < 30
            late = [asyncio.create_task(log.append(path, b"%d" % n)) for n in range(3) for path in HELD]
            await asyncio.gather(*(log.append(path, b"10") for path in OTHERS))  # by now the late ones are set aside
        await asyncio.gather(*late)
        for path in HELD:
            assert await log.content(path) == b"0,1,2", "in order, and nothing of what was refused"
        for path in OTHERS:
            assert await log.content(path) == b"0,1,2,3,4,5,6,7,8,9,10"
        assert log.doubts == []
        assert log.writer.pending_bytes == 0, "what was set aside is counted once, wherever it waits"


async def test_a_writer_that_gave_up_its_last_append_can_be_closed(database_url: str) -> None:
    async with opened(database_url, timeout=1) as log:
        await log.create("held")
        async with holding(database_url, "held"):
            with pytest.raises(errors.Unavailable):
                await log.append("held", b"1")
            try:
                async with asyncio.timeout(30):
                    await log.writer.close()
            finally:
                log.writer._empty.set()  # or else the rig waits for ever, should this fail


async def test_a_stream_that_cannot_be_made_or_deleted_is_503_in_time(database_url: str) -> None:
    async with asyncio.timeout(60), opened(database_url) as log:
        await log.create("held")
        async with holding(database_url, "held"):
            outcomes = await asyncio.gather(log.create("held"), log.lifecycle.delete("held"), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [errors.StreamHeld, errors.StreamHeld]
        assert not (await log.create("held")).new


_COMMIT_THAT_WAITS = """
CREATE TABLE told (one text);
CREATE TABLE door ();
CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN LOCK TABLE door IN SHARE MODE; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON told DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait();
CREATE OR REPLACE FUNCTION run_gateway.news(
    machine text, path text, first bigint, last bigint, closed boolean, body text) RETURNS text LANGUAGE sql VOLATILE
BEGIN ATOMIC INSERT INTO public.told VALUES (path) RETURNING one; END;
"""


async def test_an_append_whose_notification_waits_is_appended_once(database_url: str) -> None:
    """A commit that notifies waits for that of another, while a disk is slow; and a role may have a lock_timeout."""
    async with asyncio.timeout(60), connected(database_url) as slow:
        await slow.execute(_COMMIT_THAT_WAITS)
        name = await slow.fetchval("SELECT current_database()")
        await slow.execute(f"ALTER DATABASE {name} SET lock_timeout = '50ms'")
        async with opened(database_url, timeout=30) as log:
            for path in ("alone", "a", "b"):
                await log.create(path)
            for paths in (["alone"], ["a", "b"]):
                async with slow.transaction():
                    await slow.execute("LOCK TABLE door IN EXCLUSIVE MODE")
                    appends = [asyncio.create_task(log.append(path, b"1", close=path == "b")) for path in paths]
                    async with connected(database_url) as look:
                        while not await look.fetchval(  # noqa: ASYNC110  a database tells nobody
                            "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'door'::regclass)"
                        ):
                            await asyncio.sleep(0.005)
                    await asyncio.wait(appends, timeout=0.2)  # four times as long as anybody may wait for a lock
                await asyncio.gather(*appends)
            for path in ("alone", "a", "b"):
                assert await log.content(path) == b"1"
            assert log.doubts == []
