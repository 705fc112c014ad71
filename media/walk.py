"""The files below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

LOST = "lost+found"  # at the root of a disk, which only its system's root may read


def walk_files(root: Path) -> Iterator[str]:
    """Yield the names of the files below a folder, sorted within each.

    Links are followed, and each folder is entered once. Names that begin with a point are left out.

    Raises:
        OSError: a folder cannot be read; without its files, classes would have other numbers.
    """

    def refuse(error: OSError) -> None:
        raise error

    entered = set()
    for folder, inside, names in os.walk(root, onerror=refuse, followlinks=True):
        status = os.stat(folder)
        fresh = (status.st_dev, status.st_ino) not in entered
        entered.add((status.st_dev, status.st_ino))
        inside[:] = sorted(name for name in inside if fresh and not name.startswith(".") and name != LOST)
        if fresh:
            yield from sorted(os.path.relpath(os.path.join(folder, name), root) for name in names if name[0] != ".")
