"""A copy of the package's binaries where every user can run them, for root alone.

The package may be installed below a closed folder such as /root, which the account that Postgres has to run as
cannot enter, and whose mode is not ours to change.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from gateway.embedded.folders import trusted

CACHES = (Path("/var/cache"), Path("/var/tmp"), Path("/tmp"))  # noqa: S108 (`trusted` looks at what is there)


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
