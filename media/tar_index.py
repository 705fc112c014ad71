"""Tar shards that are read in any order: what is in them is listed once."""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")  # which have no index
LABEL_SUFFIX = ".cls"  # WebDataset: the class of the items that share the rest of the name


@dataclass(frozen=True, slots=True)
class Member:
    """One file, of its own or in a shard.

    Args:
        name: relative to the folder of the data, or inside the shard.
        shard: number of the shard, -1 for a file of its own.
        offset, size: where its bytes are in the shard.
        label: the class that the shard itself gives it, if any.
    """

    name: str
    shard: int
    offset: int
    size: int
    label: str | None


def index_tar(path: Path, number: int) -> tuple[list[Member], str | None]:
    """List the files of a tar: a damaged one up to the damage, with the reason.

    Args:
        path: of the tar file.
        number: of the shard, which its members carry.
    """
    members: list[Member] = []
    labels: dict[str, str] = {}
    problem = None
    length = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                hidden = os.path.basename(info.name).startswith(".")
                if not info.isreg() or hidden:
                    continue
                if info.offset_data + info.size > length:
                    problem = f"ends inside {info.name}"
                    break
                if info.name.endswith(LABEL_SUFFIX):
                    file = tar.extractfile(info)
                    labels[_key(info.name)] = file.read(256).decode("utf-8", "replace").strip() if file else ""
                else:
                    name = os.path.normpath(info.name)
                    members.append(Member(name, number, info.offset_data, info.size, None))
                tar.members = []  # type: ignore[attr-defined]  # the list would grow with every file of the shard
    except (tarfile.TarError, OSError, ValueError) as error:
        problem = str(error) or type(error).__name__
    if labels:
        members = [Member(m.name, m.shard, m.offset, m.size, labels.get(_key(m.name))) for m in members]
    return members, problem


def _key(name: str) -> str:
    """Return the key of a WebDataset sample: the name up to the first dot behind the folder."""
    folder, _, base = os.path.normpath(name).rpartition("/")
    return f"{folder}/{base.split('.')[0]}"
