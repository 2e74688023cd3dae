"""Folders that hold our data, or that stand where everybody may write: whose they are, and who may look in.

Postgres refuses a cluster that others may read. In /tmp another user may have put a folder of our name before us.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from gateway.embedded.accounts import Account


def trusted(folder: Path, uid: int) -> None:
    """Raises PermissionError unless `folder` is a real folder of that user, which no other user can write to."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & 0o022:
        raise PermissionError("belongs to another account")


def claim(folder: Path, uid: int) -> None:
    """Makes a private folder of the user `uid`. Raises PermissionError if another user has put one there."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        trusted(folder, uid)
        if folder.stat().st_mode & 0o077:
            raise PermissionError("is open to others") from None
    else:
        if uid != os.geteuid():
            os.chown(folder, uid, -1)


def give(folder: Path, account: Account | None) -> None:
    """Gives a cluster to the account, even if root has copied it back from a backup."""
    folder.chmod(0o700)
    if account is None or folder.stat().st_uid == account.uid:
        return
    for parent, folders, files in os.walk(folder, topdown=False):
        for name in (*folders, *files):
            os.chown(Path(parent, name), account.uid, account.gid, follow_symlinks=False)
    os.chown(folder, account.uid, account.gid)  # last: until then, this is done again
