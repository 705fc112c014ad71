"""Folders of Ray's sessions, which Ray never removes, and lets all users change: half a megabyte each, or more logs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

LOCK = "omnitok"
KEPT_SESSIONS = 4  # that have ended: their logs say why


@contextlib.contextmanager
def held_session(folder: Path) -> Iterator[None]:
    """Hold a session by a lock for as long as the context lasts, and remove old ones that were held so.

    It is closed to other users, who could put sockets of their own in the place of Ray's and run code in its workers.

    Args:
        folder: of the session, among others.
    """
    folder.chmod(0o700)
    with contextlib.suppress(PermissionError):  # it is another user's
        folder.parent.chmod(0o1777)  # nobody else moves a session away
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        ended = [path for path in sorted(folder.parent.glob("session_*")) if _has_ended(path)]  # by their time
        for path in ended[:-KEPT_SESSIONS]:
            shutil.rmtree(path, ignore_errors=True)
        yield
    finally:
        os.close(lock)


def _has_ended(folder: Path) -> bool:
    """Return whether a process of this user has held a session and does so no longer."""
    if folder.is_symlink():  # the latest has two names
        return False
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(lock).st_uid == os.geteuid()
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
