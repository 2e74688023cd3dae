"""The databases that tests ask for by name; what they are is in tests/databases.py."""

from __future__ import annotations

import functools
import gc
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from httpx._transports import default as _default
from hypothesis import HealthCheck, settings

from tests.databases import OwnPostgres, Postgres, folder, session_postgres


def pytest_configure(config: pytest.Config) -> None:
    """Children inherit an ignored SIGINT, as a shell gives it to background jobs; but tests send them one."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Some hundred processes are started here: they compile the house once, and not each for itself.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # pytest-xdist would begin with the files that have most tests. It asks where it hands them out, which is not where
    # they are collected.
    config.option.loadscopereorder = False
    _take_any_time()
    _make_one_ssl_context()


# What takes longest begins first, or else one process would still be at it when the others have nothing left to do.
LONG: Final = (
    "loadtests/test_survival.py",
    "flue2/",
    "failover/test_handovers.py",
    "loadtests/test_siege.py",
    "conformance/",
    "test_machines.py",
    "hardening/test_pipelining.py",
    "flue/real/",
    "log/test_append_ways.py",
    "failover/",
    "relay/test_clients.py",
    "log/test_collisions.py",
    "field/test_proxies.py",
    "loadtests/test_regions.py",
    "test_image.py",
    "client/test_package.py",
    "hardening/test_rings.py",
    "process/test_workers.py",
    "process/test_garbage.py",
    "auth/test_many.py",
    "http/test_connections.py",
    "hardening/test_bytes.py",
    "hardening/test_schema.py",
    "field/test_upgrade.py",
    "page/",
    "faults/",
    "clients/",
    "owner/",
    "embedded/",
    "test_machines_many.py",
    "runs/",
    "relay/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order in which `pytest -n` hands out files."""

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(Path(__file__).parent).as_posix()
        return next((at for at, long in enumerate(LONG) if name.startswith(long)), len(LONG))

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """What 6,500 tests are made of stays for ever: no look for rings of references goes over it again."""
    gc.collect()
    gc.freeze()


def _take_any_time() -> None:
    """A busy machine is no fault: an example may take as long as it does, and an answer longer than httpx's 5 s."""
    settings.register_profile("any time", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any time")
    DEFAULT_TIMEOUT_CONFIG.connect = DEFAULT_TIMEOUT_CONFIG.read = DEFAULT_TIMEOUT_CONFIG.write = 60.0


def _make_one_ssl_context() -> None:
    """Each client of httpx reads the world's certificates, 20 ms of processor time, whether it speaks TLS or not."""
    _default.create_ssl_context = functools.cache(_default.create_ssl_context)  # type: ignore[attr-defined]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """pytest's own, but in memory: most of what a test writes is the data of a Postgres."""
    with folder() as place:
        yield place


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres() -> AsyncIterator[Postgres]:
    """The one server of the session."""
    async with session_postgres() as server:
        yield server


@pytest_asyncio.fixture
async def database_url(postgres: Postgres) -> AsyncIterator[str]:
    """A fresh, migrated database."""
    async with postgres.database() as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def database_of_all(postgres: Postgres) -> AsyncIterator[str]:
    """A migrated database for all tests of a file."""
    async with postgres.database() as url:
        yield url


@pytest_asyncio.fixture
async def own_postgres(tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[OwnPostgres]]]:
    """`server = await own_postgres()`: a running server for this test alone, to be stopped and restarted."""
    async with AsyncExitStack() as stack:
        count = 0

        async def start() -> OwnPostgres:
            nonlocal count
            count += 1
            server = OwnPostgres(tmp_path / f"own-postgres-{count}")
            await server.start()
            stack.push_async_callback(server.stop)
            return server

        yield start
