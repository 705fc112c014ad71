"""The files that jobs make: written piece by piece under a temporary name, and there as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

PART_SUFFIX = ".part"


class Artifacts:
    """A folder of files, each with a name that is used once.

    Args:
        folder: created if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Write a piece; the same piece may come twice."""
        descriptor = os.open(self._part(name), os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            view = memoryview(data)
            while view:
                written = os.pwrite(descriptor, view, offset)
                view, offset = view[written:], offset + written
        finally:
            os.close(descriptor)

    def finish(self, name: str, size: int) -> None:
        """Give the pieces their name, once they are on the disk; a file that has it already stays.

        Raises:
            OSError: pieces are missing.
        """
        path, part = self._folder / name, self._part(name)
        if path.exists():
            return
        with part.open("rb+") as file:
            if (found := os.fstat(file.fileno()).st_size) != size:
                raise OSError(f"The content {name} has {found} bytes of {size}.")
            os.fsync(file.fileno())
        part.rename(path)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)  # or a power cut could forget the name that a record relies on
        finally:
            os.close(folder)

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return a piece of a file.

        Raises:
            FileNotFoundError: the file has been removed.
        """
        with (self._folder / name).open("rb") as file:
            return os.pread(file.fileno(), length, offset)

    def remove(self, name: str) -> None:
        """Remove a file and the pieces of it."""
        for path in (self._folder / name, self._part(name)):
            path.unlink(missing_ok=True)

    def keep_only(self, names: Collection[str]) -> None:
        """Remove all files but these, and all pieces but theirs."""
        for path in self._folder.iterdir():
            if path.name.removesuffix(PART_SUFFIX) not in names:
                path.unlink(missing_ok=True)

    def _part(self, name: str) -> Path:
        return self._folder / f"{name}{PART_SUFFIX}"
