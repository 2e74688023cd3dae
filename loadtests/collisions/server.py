"""A Postgres of a given major version, gone afterwards: the embedded one, or one that the system has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import patch

from gateway.embedded import EmbeddedPostgres
from gateway.embedded import binaries as places
from gateway.log.migrations import migrate


def binaries(major: int) -> Path | None:
    """The folder with a Postgres of this version; None where there is none."""
    for folder in places.binary_folders():
        if (folder / "postgres").exists() and places.probe(folder, None).split(".")[0] == str(major):
            return folder
    return None


@asynccontextmanager
async def open_server(major: int, folder: Path) -> AsyncIterator[str]:
    """The address of its database, which is migrated."""
    found = binaries(major)
    if found is None:
        raise LookupError(f"There is no Postgres {major} here.")

    def only() -> Iterator[Path]:
        yield found

    with patch.object(places, "binary_folders", only):
        async with EmbeddedPostgres(folder) as server:
            await migrate(server.dsn)
            yield server.dsn
