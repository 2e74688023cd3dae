"""The database of a Flue app, before anything is done to it: its tables are those that are known here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from gateway.process.exit_codes import Failure
from gateway.settings import Settings
from gateway.wording import one_line

if TYPE_CHECKING:
    from gateway.flue.schema import Connection


async def fit(url: str, settings: Settings) -> None:
    """Makes sure that `serve` can show a Flue app's runs from this database. Raises Failure."""
    from gateway.flue.schema import check

    await with_app(url, lambda connection: check(connection, ends_runs=settings.flue_orphan_after is not None))


async def fit_agents(url: str, settings: Settings) -> None:
    """Makes sure that `serve` can look after the conversations of a Flue 2.x app in this database. Raises Failure."""
    from gateway.flue.schema import check_agents

    await with_app(url, lambda connection: check_agents(connection, reads=settings.flue_readers is not None))


async def with_app(url: str, work: Callable[[Connection], Awaitable[None]]) -> None:
    """Does some work on a connection to the database. Raises Failure, which names the database."""
    import asyncpg

    from gateway.flue.errors import Unfit
    from gateway.log.connect import connect
    from gateway.process.database import CONNECT_TIMEOUT, name

    try:
        connection = await connect(url, timeout=CONNECT_TIMEOUT)
        try:
            await work(connection)
        finally:
            await connection.close()
    except (Unfit, OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Failure(f"{name(url)} cannot be used as a Flue app's: {one_line(error)}") from error
