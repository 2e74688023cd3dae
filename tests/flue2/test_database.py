"""The database of a Flue 2.x app, of which the mode for a beta's runs says what it is."""

from __future__ import annotations

import pytest

from tests.cli.commands import command
from tests.flue2.house import House
from tests.flue2.rig import MOUNT

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_a_check_says_that_the_agents_tables_can_be_used(house: House) -> None:
    a = house.machines[0]
    ended = await command(
        "check", DATABASE_URL=house.database_url, GATEWAY_FLUE_AGENTS=MOUNT, GATEWAY_UPSTREAM=a.app.url
    )
    assert (ended.code, "ok    The tables of the Flue app can be used." in ended.out) == (0, True)


async def test_the_mode_for_runs_says_that_this_is_flue_2(house: House) -> None:
    for name in ("serve", "check"):
        ended = await command(
            name, DATABASE_URL=house.database_url, PORT="0", GATEWAY_FLUE="on", GATEWAY_FLUE_WORKFLOWS="*"
        )
        assert ended.code == 1
        assert "as a Flue app's: this is Flue 2.x, which has conversations and no runs" in ended.out + ended.err
        assert "use GATEWAY_FLUE_AGENTS" in ended.out + ended.err
