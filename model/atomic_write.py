"""Files that are either there and whole, or not there; for training and for the command."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write, which takes the place of `path` when the block ends well.

    Args:
        path: the file to write; its folder must exist. The temporary name has its suffix, which decides formats.
    """
    # random, as threads may write one path, and so may hosts that share a disk
    fresh = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield fresh
        with fresh.open("rb") as file:
            os.fsync(file.fileno())  # or a power cut could leave the new name without its bytes
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Wait until the names of a folder are on the disk, before something that relies on them is written."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file as a whole."""
    with replacing(path) as fresh:
        fresh.write_bytes(data)
