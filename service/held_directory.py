"""A temporary folder that is held by a lock; folders whose process was killed are swept by the next one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


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
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            self._lock = _lock(self.path)
            if self._lock is not None:
                # Another service may have swept it before it was locked.
                if self.path.is_dir():
                    return
                os.close(self._lock)

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
    """Lock a folder of this user; None if it is another's, is held, or is gone."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(descriptor).st_uid == os.geteuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
    return None
