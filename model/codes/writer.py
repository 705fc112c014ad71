"""Shards of an encoded data set, each with its part of the manifest, and the completed description."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from media.kinds import Kind
from model.atomic_write import replace_file, replacing, sync_folder
from model.codes import npy_tree, parquet, webdataset
from model.codes.info import MANIFEST_FOLDER, SUFFIXES, CodesInfo, write_info
from model.codes.reader import shard_names
from model.codes.rows import Rows, moments

WRITERS = {"parquet": parquet.write, "tar": webdataset.write}


def manifest_path(dest: Path, name: str) -> Path:
    """Return the manifest of a shard. It is written last, so a shard that has one is whole."""
    return dest / MANIFEST_FOLDER / f"{name}.jsonl"


def write_manifest(dest: Path, name: str, records: Sequence[dict[str, Any]]) -> None:
    """Write the manifest of a shard: a record for each item, with what `done_record` or `failed_record` says."""
    path = manifest_path(dest, name)
    path.parent.mkdir(exist_ok=True)
    replace_file(path, b"".join(json.dumps(record).encode() + b"\n" for record in records))


def read_manifest(dest: Path, name: str) -> list[dict[str, Any]]:
    """Return the records of a shard; none if it is not done."""
    try:
        return [json.loads(line) for line in manifest_path(dest, name).read_bytes().splitlines()]
    except (FileNotFoundError, ValueError):
        return []


def done_record(rows: int, codes: NDArray[Any]) -> dict[str, Any]:
    """Return what a manifest says of an item that was encoded.

    Args:
        rows: of the item.
        codes: of one row.
    """
    return {"status": "done", "rows": rows, "grid": list(codes.shape[:3])}


def failed_record(reason: str, retry: bool) -> dict[str, Any]:
    """Return what a manifest says of an item that cannot be encoded.

    Args:
        reason: a sentence.
        retry: a later run tries again.
    """
    return {"status": "failed", "rows": 0, "grid": None, "source_hash": None, "reason": reason, "retry": retry}


def write_shard(dest: Path, info: CodesInfo, name: str, items: range, rows: Rows) -> None:
    """Write the rows of a shard, which may be none; its manifest comes after it.

    Args:
        dest: folder of the data set.
        info: of the data set.
        name: of the shard.
        items: numbers of its items.
        rows: of these items.
    """
    if info.container == "npy":
        npy_tree.write(dest, info, rows, items)
        return
    path = dest / f"{name}{SUFFIXES[info.container]}"
    if not len(rows):
        path.unlink(missing_ok=True)
        return
    with replacing(path) as fresh:
        WRITERS[info.container](fresh, rows, _describe(info, rows))
    sync_folder(dest)  # or a power cut could leave the manifest without its shard


def complete(dest: Path, info: CodesInfo) -> CodesInfo:
    """Write and return the description with the rows of each kind, and the moments of latents."""
    rows: dict[Kind, int] = dict.fromkeys(info.items, 0)
    sums = np.zeros((3, info.size))
    for kind in info.items:
        for name in shard_names(info, kind):
            records = read_manifest(dest, name)
            count = sum(record["rows"] for record in records)
            rows[kind] += count
            if info.kind == "latents" and count:
                sums += _moments(dest, info, name, records)
    whole = replace(info, rows=rows)
    if info.kind == "latents" and sums[0, 0]:
        mean = sums[1] / sums[0]
        std = np.sqrt(np.maximum(sums[2] / sums[0] - mean**2, 0))
        whole = replace(whole, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    write_info(dest, whole)
    return whole


def _describe(info: CodesInfo, rows: Rows) -> dict[str, Any]:
    """Return what a shard says of itself."""
    described = {
        "bundle": info.tokenizer,
        "bundle_hash": info.tokenizer_hash,
        "dtype": info.dtype,
        "kind": info.kind,
        "options": asdict(info.options),
    }
    return described | ({"moments": moments(rows).tolist()} if info.kind == "latents" else {})


def _moments(dest: Path, info: CodesInfo, name: str, records: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    if info.container == "npy":
        done = [record["item"] for record in records if record["status"] == "done"]
        codes, _, _ = npy_tree.read(dest, info, done, (1, 1, -1))
        return moments(Rows(codes))
    path = dest / f"{name}{SUFFIXES[info.container]}"
    describe = parquet.describe if info.container == "parquet" else webdataset.describe
    return np.array(describe(path)["moments"])
