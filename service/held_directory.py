"""A temporary folder that is held by a lock; folders whose process was killed are swept by the next one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

_MARK = 0o1700  # a mode that no folder of anybody else's has, whatever its name


class HeldDirectory:
    """A new, empty folder that is held by a lock until it is closed, or until this process ends.

    Args:
        prefix: of its name, and of those that are swept.
        parent: where it is; the temporary folder if None.

    Attributes:
        path: the folder.
    """

    def __init__(self, prefix: str, parent: Path | None = None) -> None:
        parent = parent or Path(tempfile.gettempdir())
        for path in abandoned(prefix, parent):
            shutil.rmtree(path, ignore_errors=True)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        self._lock: int | None = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.path.chmod(_MARK)  # now that it is locked: others look at it from here on

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def abandoned(prefix: str, parent: Path) -> Iterator[Path]:
    """Yield the folders of processes that no longer run, each of them locked meanwhile."""
    for path in parent.glob(f"{prefix}*"):
        lock = _lock(path)
        if lock is not None:
            yield path
            os.close(lock)


def _lock(path: Path) -> int | None:
    """Lock a folder that a process of this user made here; None if it is another, is held, or is gone."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            status = os.fstat(descriptor)
            if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == _MARK:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
    return None
