"""The rows of an encoded data set, whatever the form of its shards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from media.kinds import Kind
from model.codes import npy_tree, parquet, webdataset
from model.codes.info import MANIFEST_FOLDER, SUFFIXES, CodesError, CodesInfo, read_info, refuse_damaged, shard_name
from model.codes.rows import Rows

READERS = {"parquet": parquet.read, "tar": webdataset.read}


def open_encoded(folder: Path) -> CodesInfo:
    """Return the description of a data set whose shards are all there.

    Raises:
        CodesError: there is none, or its run has not ended.
    """
    info = read_info(folder)
    if info.rows is None:
        raise CodesError(f"The run that writes {folder} has not ended: give its command again, which resumes.")
    return info


def shard_names(info: CodesInfo, kind: Kind) -> list[str]:
    """Return the names of the shards of a kind, in their order."""
    return [shard_name(kind, number) for number in range(-(-info.items.get(kind, 0) // info.shard_items[kind]))]


def manifest(folder: Path, info: CodesInfo, kind: Kind) -> Iterator[dict[str, Any]]:
    """Yield the records of a kind's items, done and failed, in their order.

    Raises:
        CodesError: a part of it is missing or damaged.
    """
    for name in shard_names(info, kind):
        path = folder / MANIFEST_FOLDER / f"{name}.jsonl"
        with refuse_damaged(path, json.JSONDecodeError):
            records = [json.loads(line) for line in path.read_bytes().splitlines()]
        yield from records


def shard_files(folder: Path, info: CodesInfo, kind: Kind) -> list[Path]:
    """Return the files of a kind's shards; one whose items all failed has none."""
    paths = [folder / f"{name}{SUFFIXES[info.container]}" for name in shard_names(info, kind)]
    return [path for path in paths if path.is_file()]


def read_kind(folder: Path, info: CodesInfo, kind: Kind) -> Rows:
    """Read all rows of a kind into memory.

    Raises:
        CodesError: a shard is missing or damaged.
    """
    rows = Rows()
    if info.container == "npy":
        _read_tree(folder, info, kind, rows)
    else:
        rows.extend([READERS[info.container](path)[0] for path in shard_files(folder, info, kind)])
    check_rows(folder, info, kind, len(rows))
    return rows


def check_rows(folder: Path, info: CodesInfo, kind: Kind, count: int) -> None:
    """Refuse another number of rows of a kind than was written.

    Raises:
        CodesError: a shard is missing.
    """
    wanted = (info.rows or {}).get(kind)
    if wanted is not None and count != wanted:
        raise CodesError(f"{folder} holds {count} rows of {kind}, not {wanted}: tokenize again.")


def _read_tree(folder: Path, info: CodesInfo, kind: Kind, rows: Rows) -> None:
    grid = info.grid(kind)
    assert grid is not None  # or it would not have been written
    for record in manifest(folder, info, kind):
        if record["status"] != "done":
            continue
        codes, labels, items = npy_tree.read(folder, info, [record["item"]], grid)
        flips = 1 + info.options.flips
        rows.codes += codes
        rows.labels += labels
        rows.items += items
        for row in range(len(codes)):
            rows.keys.append(record["key"])
            rows.views.append(row // flips)
            rows.flips.append(bool(row % flips))
            rows.hashes.append(record["source_hash"])
            rows.preprocess.append({})
