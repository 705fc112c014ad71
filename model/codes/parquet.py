"""Shards as Parquet: a row each, codes as lists of one length where all grids are equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from model.codes.info import CodesError, refuse_damaged
from model.codes.rows import Rows

DESCRIPTION = b"omnitok"  # key of the schema's metadata


def _pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and its Parquet module, which only data sets need."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise CodesError("Parquet needs pyarrow: run pip install -e '.[bulk]' in a checkout.") from error
    return pyarrow, pyarrow.parquet


def write(path: Path, rows: Rows, description: dict[str, Any]) -> None:
    """Write one shard.

    Args:
        path: of the file.
        rows: of the shard, at least one.
        description: of the bundle and the options.
    """
    pa, pq = _pyarrow()

    name, grids = description["kind"], [codes.shape for codes in rows.codes]
    values = pa.array(np.concatenate([codes.ravel() for codes in rows.codes]))
    if len(set(grids)) == 1:
        codes = pa.FixedSizeListArray.from_arrays(values, rows.codes[0].size)
    else:
        ends = np.cumsum([0, *(one.size for one in rows.codes)])
        codes = pa.LargeListArray.from_arrays(pa.array(ends), values)
    steps = {id(one): one for one in rows.preprocess}
    texts = {key: json.dumps(one) for key, one in steps.items()}
    table = pa.table(
        {
            # a file's name may be no UTF-8, which Parquet's strings must be
            "key": pa.array([key.encode("utf-8", "backslashreplace") for key in rows.keys], pa.string()),
            "item": pa.array(rows.items, pa.int64()),
            "label": pa.array(rows.labels, pa.int32()),
            "view": pa.array(rows.views, pa.int16()),
            "flip": pa.array(rows.flips, pa.bool_()),
            "grid": pa.array([list(grid) for grid in grids], pa.list_(pa.int32())),
            name: codes,
            "source_hash": pa.array(rows.hashes, pa.string()),
            "preprocess": pa.array([texts[id(one)] for one in rows.preprocess], pa.string()),
        },
        metadata={DESCRIPTION: json.dumps(description).encode()},
    )
    # Codes are nearly random: compression and dictionaries cost time and save nothing.
    dictionaries = ["label", "view", "grid.list.element", "preprocess"]
    pq.write_table(table, path, compression="none", use_dictionary=dictionaries, write_statistics=False)


def read(path: Path) -> tuple[Rows, dict[str, Any]]:
    """Read one shard and its description.

    Raises:
        CodesError: it is missing or damaged.
    """
    pa, pq = _pyarrow()

    with refuse_damaged(path, pa.ArrowException):
        table = pq.read_table(path)
        description = json.loads((table.schema.metadata or {})[DESCRIPTION])
        columns = {name: table[name].combine_chunks() for name in table.column_names}
        codes = columns[description["kind"]]
        values = codes.flatten().to_numpy(zero_copy_only=False)
        grids = [tuple(grid) for grid in columns["grid"].to_pylist()]
        ends = np.cumsum([0, *(int(np.prod(grid)) for grid in grids)])
        parts = [values[ends[row] : ends[row + 1]].reshape(grid) for row, grid in enumerate(grids)]
        rows = Rows(
            parts,
            columns["item"].to_pylist(),
            columns["key"].to_pylist(),
            columns["label"].to_pylist(),
            columns["view"].to_pylist(),
            columns["flip"].to_pylist(),
            columns["source_hash"].to_pylist(),
            [json.loads(steps) for steps in columns["preprocess"].to_pylist()],
        )
    return rows, description


def describe(path: Path) -> dict[str, Any]:
    """Read the description of a shard alone.

    Raises:
        CodesError: it is missing or damaged.
    """
    pa, pq = _pyarrow()

    with refuse_damaged(path, pa.ArrowException):
        found: dict[str, Any] = json.loads((pq.read_schema(path).metadata or {})[DESCRIPTION])
    return found
