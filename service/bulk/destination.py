"""The folder that a run writes: owned by one run at a time, described first, completed last."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from model.codes import npy_tree
from model.codes.info import (
    INFO_FILE,
    MANIFEST_FOLDER,
    CodesError,
    CodesInfo,
    is_encoded,
    read_info,
    write_info,
)
from service.bulk.errors import BulkError
from service.bulk.plan import QUARANTINE_FILE, Shard

LOCK_FILE = ".lock"
OPTION_OF_FIELD = {
    "tokenizer_hash": "--bundle",
    "dtype": "--dtype",
    "kind": "--output",
    "container": "--format",
    "shard_items": "--shard-items",
}
MAX_LOST = 0.1  # of the finished shards, which a source that shrinks may cost
SHARD = re.compile(r"(images|clips)-\d{5,}\.(tar|parquet|jsonl)")
TEMPORARY = re.compile(rf"\.\d+\.({SHARD.pattern}|{re.escape(INFO_FILE)}|{re.escape(QUARANTINE_FILE)})")


@contextmanager
def owned(dest: Path) -> Iterator[None]:
    """Own a folder, which is made where it is missing; a run that died owns nothing.

    Raises:
        BulkError: another run works there.
    """
    dest.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(dest / LOCK_FILE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BulkError(f"Another run writes to {dest}. Wait for it, or choose another folder.") from None
        yield
    finally:
        os.close(descriptor)


def begin(dest: Path, info: CodesInfo, shards: Sequence[Shard], replace_source: bool) -> None:
    """Describe the data set, or check that what is there has the same bundle and options; delete what is outdated.

    Classes and counts may differ, for data sets grow; shards whose items changed are then encoded again.

    Args:
        dest: of the data set.
        info: of the data set.
        shards: of the source.
        replace_source: the source may have another name than before, or lack many of the items.

    Raises:
        BulkError: the folder holds something else.
    """
    if not (dest / INFO_FILE).exists():
        if any(path.name != LOCK_FILE for path in dest.iterdir()):
            raise BulkError(f"{dest} is not empty and holds no codes: choose another folder.")
    elif not is_encoded(dest):
        raise BulkError(f"{dest / INFO_FILE} describes codes of another format: choose another folder.")
    else:
        try:
            found = read_info(dest)
        except CodesError as error:
            raise BulkError(str(error)) from error
        if differing := _differing(found, info):
            raise BulkError(
                f"{dest} holds codes that differ in {', '.join(differing)}: choose another folder, or what made them."
            )
        if not replace_source:
            _check_source(dest, found, info, shards)
    write_info(dest, info.begun())
    for path in [*_own(dest, TEMPORARY), *_outdated(dest, shards)]:
        path.unlink(missing_ok=True)
    if info.container == "npy":
        npy_tree.delete_from(dest, info, sum(info.items.values()))


def _differing(found: CodesInfo, info: CodesInfo) -> list[str]:
    """Return the options of `omnitok tokenize` in which codes and a run differ."""
    changed = [OPTION_OF_FIELD[name] for name in OPTION_OF_FIELD if getattr(found, name) != getattr(info, name)]
    old, new = asdict(found.options), asdict(info.options)
    sizes = ["--size"] if any(old[name] != new[name] for name in ("height", "width")) else []
    others = [f"--{name}" for name in old if name not in ("height", "width") and old[name] != new[name]]
    return [*changed, *sizes, *others]


def _check_source(dest: Path, found: CodesInfo, info: CodesInfo, shards: Sequence[Shard]) -> None:
    """Refuse a source that may be mistaken, or whose disk may be missing."""
    before, now = found.source.partition(" of ")[2], info.source.partition(" of ")[2]
    if before != now:
        raise BulkError(
            f"{dest} holds codes of {before!r}, and the source is {now!r}. "
            "If that is meant, add --replace; else choose another folder."
        )
    finished = len(list(dest.glob(f"{MANIFEST_FOLDER}/*.jsonl")))
    lost = sum(path.suffix == ".jsonl" for path in _outdated(dest, shards))
    if lost > max(1, MAX_LOST * finished):
        raise BulkError(
            f"{dest} holds codes of {found.source}, and there are {info.source} now: "
            f"{lost} of {finished} finished shards would be deleted. "
            "If that is meant, add --replace; else choose another folder."
        )


def _own(dest: Path, names: re.Pattern[str]) -> list[Path]:
    """Return files of runs, whose names match; others may be the user's."""
    folders = (dest, dest / MANIFEST_FOLDER)
    return [path for folder in folders if folder.is_dir() for path in folder.iterdir() if names.fullmatch(path.name)]


def _outdated(dest: Path, shards: Sequence[Shard]) -> list[Path]:
    """Return the files of shards that the source has no more."""
    names = {shard.name for shard in shards}
    return [path for path in _own(dest, SHARD) if path.stem not in names]
