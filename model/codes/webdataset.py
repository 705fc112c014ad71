"""Shards as WebDataset tars: a sample a row, of `.tokens.npy` or `.latents.npy`, `.cls` if it has a class, `.json`."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from model.codes.info import refuse_damaged
from model.codes.rows import Rows

DESCRIPTION = "omnitok"  # key of the global header, which readers of tars pass over


def write(path: Path, rows: Rows, description: dict[str, Any]) -> None:
    """Write one shard; arguments as of `parquet.write`."""
    header = {DESCRIPTION: json.dumps(description)}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers=header) as tar:
        for row in range(len(rows)):
            sample = f"{rows.items[row]:09d}-{rows.views[row]}{'f' if rows.flips[row] else ''}"
            array = io.BytesIO()
            np.save(array, rows.codes[row], allow_pickle=False)
            _add(tar, f"{sample}.{description['kind']}.npy", array.getvalue())
            if rows.labels[row] >= 0:
                _add(tar, f"{sample}.cls", str(rows.labels[row]).encode())
            record = {
                "key": rows.keys[row],
                "item": rows.items[row],
                "label": rows.labels[row],
                "view": rows.views[row],
                "flip": rows.flips[row],
                "source_hash": rows.hashes[row],
                "bundle_hash": description["bundle_hash"],
                "preprocess": rows.preprocess[row],
            }
            _add(tar, f"{sample}.json", json.dumps(record).encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # of no owner and time, so that equal content gives equal files
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def read(path: Path) -> tuple[Rows, dict[str, Any]]:
    """Read one shard and its description.

    Raises:
        CodesError: it is missing or damaged.
    """
    rows = Rows()
    with refuse_damaged(path, tarfile.TarError), tarfile.open(path, "r:") as tar:
        description = json.loads(tar.pax_headers[DESCRIPTION])
        for member in tar:
            file = tar.extractfile(member)
            data = file.read() if file else b""
            if member.name.endswith(".npy"):
                rows.codes.append(np.load(io.BytesIO(data), allow_pickle=False))
            elif member.name.endswith(".json"):
                record = json.loads(data)
                rows.items.append(record["item"])
                rows.keys.append(record["key"])
                rows.labels.append(record["label"])
                rows.views.append(record["view"])
                rows.flips.append(record["flip"])
                rows.hashes.append(record["source_hash"])
                rows.preprocess.append(record["preprocess"])
    return rows, description


def describe(path: Path) -> dict[str, Any]:
    """Read the description of a shard alone.

    Raises:
        CodesError: it is missing or damaged.
    """
    with refuse_damaged(path, tarfile.TarError), tarfile.open(path, "r:") as tar:
        found: dict[str, Any] = json.loads(tar.pax_headers[DESCRIPTION])
    return found
