"""`serve` and `attach` refuse a database that is not a known Flue app's, and say in one line why."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.flue import schema
from gateway.flue.errors import Unfit
from tests.cli.commands import command
from tests.databases import Postgres
from tests.flue.app import App


@pytest.fixture
async def app(postgres: Postgres) -> AsyncIterator[App]:
    async with postgres.database() as url, App.start(url) as app:
        yield app


async def test_tables_that_are_not_there_are_named(app: App) -> None:
    with pytest.raises(Unfit, match=r"^no table flue_meta, flue_runs, flue_event_streams, flue_event_stream_entries: "):
        await schema.check(app.connection, ends_runs=False)
    with pytest.raises(Unfit, match=r"^no table"):
        await schema.attach(app.connection)
    await schema.detach(app.connection)  # there is nothing to take away, and that is well


async def test_another_version_is_refused(postgres: Postgres) -> None:
    async with postgres.database() as url, App.start(url, tables=True) as app:
        await schema.check(app.connection, ends_runs=True)
        await app.connection.execute("UPDATE flue_meta SET value = '5'")
        with pytest.raises(Unfit, match="are of schema version 5; this gateway knows version 4"):
            await schema.check(app.connection, ends_runs=False)


async def test_flue_2_is_told_apart_from_tables_that_are_missing(postgres: Postgres) -> None:
    async with postgres.database() as url, App.start(url) as app:
        await app.connection.execute("CREATE TABLE flue_meta (key text PRIMARY KEY, value text NOT NULL)")
        await app.connection.execute("INSERT INTO flue_meta VALUES ('format_version', '1')")
        with pytest.raises(Unfit, match=r"^this is Flue 2\.x, .*: use GATEWAY_FLUE_AGENTS, not GATEWAY_FLUE$"):
            await schema.check(app.connection, ends_runs=False)
        with pytest.raises(Unfit, match=r"^no table flue_conversation_stream_batches, .*: the Flue app makes them"):
            await schema.attach(app.connection)
        served = await command("serve", DATABASE_URL=url, PORT="0", GATEWAY_FLUE="on", GATEWAY_FLUE_WORKFLOWS="*")
        checked = await command("check", DATABASE_URL=url, GATEWAY_FLUE="on", GATEWAY_FLUE_WORKFLOWS="*")
        assert (served.code, checked.code) == (1, 1)
        assert "cannot be used as a Flue app's: this is Flue 2.x" in served.err
        assert "FAIL  The database cannot be used as a Flue app's: this is Flue 2.x" in checked.out


async def test_a_beta_is_not_taken_for_flue_2(flue_database: str) -> None:
    for name in ("serve", "check"):
        ended = await command(
            name,
            DATABASE_URL=flue_database,
            PORT="0",
            GATEWAY_FLUE_AGENTS="/agents/chat",
            GATEWAY_UPSTREAM="http://127.0.0.1:1",
        )
        assert ended.code == 1
        assert "this is a beta of Flue, which has runs: use GATEWAY_FLUE, not" in ended.out + ended.err


async def test_a_check_says_that_the_tables_can_be_used(flue_database: str) -> None:
    checked = await command("check", DATABASE_URL=flue_database, GATEWAY_FLUE="on", GATEWAY_FLUE_WORKFLOWS="*")
    assert (checked.code, "ok    The tables of the Flue app can be used." in checked.out) == (0, True)


async def test_rights_that_are_missing_are_named(postgres: Postgres) -> None:
    async with postgres.database() as url, App.start(url, tables=True) as app:
        user = f"reader_{url.rpartition('_')[2].partition('?')[0][:12]}"
        await app.connection.execute(f"CREATE ROLE {user}")
        try:
            await app.connection.execute(f"GRANT SELECT ON flue_meta, flue_runs, flue_event_streams TO {user}")
            await app.connection.execute(f"SET ROLE {user}")
            with pytest.raises(Unfit, match=f"{user} lacks rights .*flue_event_stream_entries: SELECT"):
                await schema.check(app.connection, ends_runs=False)
            await app.connection.execute(f"RESET ROLE; GRANT SELECT ON flue_event_stream_entries TO {user}")
            await app.connection.execute(f"SET ROLE {user}")
            await schema.check(app.connection, ends_runs=False)  # to read, no more is needed
            with pytest.raises(Unfit, match="flue_event_streams: TRIGGER"):
                await schema.attach(app.connection)
            with pytest.raises(Unfit, match="flue_runs: UPDATE"):
                await schema.check(app.connection, ends_runs=True)
        finally:
            await app.connection.execute(f"RESET ROLE; DROP OWNED BY {user}; DROP ROLE {user}")


async def test_the_commands_say_what_is_wrong_and_what_they_did(postgres: Postgres) -> None:
    async with postgres.database() as url:
        bare = await command("flue", "attach", DATABASE_URL=url)
        assert (bare.code, bare.out) == (1, "")
        assert "cannot be used as a Flue app's: no table flue_meta" in bare.err
        served = await command("serve", DATABASE_URL=url, PORT="0", GATEWAY_FLUE="on", GATEWAY_FLUE_WORKFLOWS="*")
        assert served.code == 1
        assert "cannot be used as a Flue app's: no table flue_meta" in served.err
        unnamed = await command("serve", DATABASE_URL=url, PORT="0", GATEWAY_FLUE="on")
        assert unnamed.code == 2
        assert "GATEWAY_FLUE_WORKFLOWS" in unnamed.err
        async with App.start(url, tables=True):
            done = await command("flue", "attach", DATABASE_URL=url)
            assert (done.code, done.out.split(":")[0]) == (0, "Attached")
            done = await command("flue", "detach", "--database-url", url)
            assert (done.code, done.out.split(":")[0]) == (0, "Detached")
