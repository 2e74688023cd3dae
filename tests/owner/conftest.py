from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.databases import Postgres, folder
from tests.owner.scene import Scene, scene


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def houses(postgres: Postgres) -> AsyncIterator[Scene]:
    """Two houses that stay as they are: what harms them has houses of its own."""
    with folder() as place:
        async with postgres.database() as url, scene(url, Path(place)) as those:
            await those.house()
            await those.house()
            yield those
