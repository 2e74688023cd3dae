"""The place where everything is measured: a temporary folder, the compiled clients, Postgres, and the sizes."""

from __future__ import annotations

import asyncio
import resource
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.bench.postgres import Postgres
from loadtests.bench.processes import Failed

NATIVE = Path(__file__).parent / "native"
TOOLS = ("readers", "writers", "together", "catchup", "floor")


@dataclass(frozen=True)
class Scale:
    """How much of everything. The defaults are those of the table."""

    seconds: float = 5.0  # that are measured, after a warm-up of a third of that
    fan_readers: int = 1_000
    fan_rate: int = 100  # events a second
    runs: int = 1_000
    run_rate: int = 20
    idle_readers: int = 5_000
    cross_readers: tuple[int, ...] = (1, 100, 1_000)
    catch_events: int = 100_000
    catch_readers: int = 50
    storm_readers: int = 2_000
    storm_runs: int = 20
    slow_readers: int = 50
    event: int = 64  # bytes
    sweep_readers: tuple[int, ...] = (1, 10, 100, 300, 1_000, 2_000)
    sweep_connections: tuple[int, ...] = (1, 4, 16, 64, 256, 1_000)

    @property
    def warm_up(self) -> float:
        return self.seconds / 3


QUICK = Scale(
    seconds=1.5, fan_readers=200, runs=100, idle_readers=500, cross_readers=(1, 100), catch_events=20_000,
    catch_readers=10, storm_readers=200, sweep_readers=(1, 10, 100), sweep_connections=(1, 16, 64),
)  # fmt: skip


@dataclass(frozen=True)
class Lab:
    """What scenarios and peers are given."""

    folder: Path
    scale: Scale
    postgres: Postgres
    tools: dict[str, Path] = field(default_factory=dict)

    def tool(self, name: str) -> Path:
        return self.tools[name]


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="run-gateway-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # nginx's worker and Postgres may be other users
        yield folder


@asynccontextmanager
async def open_lab(scale: Scale) -> AsyncIterator[Lab]:
    """Everything that is needed, gone at the end. Raises Failed."""
    _raise_file_limit()
    with _folder() as folder:
        tools = {tool: await compile_tool(tool, folder) for tool in TOOLS}
        async with Postgres(folder / "postgres") as postgres:
            yield Lab(folder, scale, postgres, tools)


async def compile_tool(name: str, folder: Path) -> Path:
    """One of the C programs, in this folder. Raises Failed."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Failed("no C compiler: the load generators are C programs (Debian: apt install gcc libc6-dev)")
    process = await asyncio.create_subprocess_exec(
        compiler, "-O2", "-o", str(folder / name), str(NATIVE / f"{name}.c"), stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    if process.returncode:
        raise Failed(f"{name}.c: {said.decode(errors='replace')}")
    return folder / name


def _raise_file_limit() -> None:
    """A socket is a file: servers that are started here inherit what this process may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
