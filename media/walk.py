"""The files below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def walk_files(root: Path) -> Iterator[str]:
    """Yield the names of the files below a folder, sorted within each.

    Links are followed, and each folder is entered once. Names that begin with a point are left out.
    """
    entered = set()
    for folder, inside, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        fresh = (status.st_dev, status.st_ino) not in entered
        entered.add((status.st_dev, status.st_ino))
        inside[:] = sorted(name for name in inside if fresh and not name.startswith("."))
        if fresh:
            yield from sorted(os.path.relpath(os.path.join(folder, name), root) for name in names if name[0] != ".")
