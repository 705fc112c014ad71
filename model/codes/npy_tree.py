"""Shards as a tree of `.npy`, a file an item, as LlamaGen's loader reads them.

`<name><side>_codes/<item>.npy` is int64 (1, rows of the item, positions), or float16 latents (1, rows, positions, c).
`<name><side>_labels/<item>.npy` is int64 (1). Items that failed leave a gap.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.atomic_write import replacing, sync_folder
from model.codes.info import CodesError, CodesInfo
from model.geometry import Grid

NAME = "imagenet"  # LlamaGen knows no other
TEMPORARY = re.compile(r"\.\d+\.\d+\.npy")
WRITERS = 16


def folders(root: Path, info: CodesInfo) -> tuple[Path, Path]:
    """Return the folders of codes and of labels."""
    side = info.options.height or ""
    return root / f"{NAME}{side}_codes", root / f"{NAME}{side}_labels"


def write(root: Path, info: CodesInfo, rows: Any, items: Iterable[int]) -> None:
    """Write the files of one shard's items, and delete those of items that have no rows any more.

    Args:
        root: of the data set.
        info: of the data set.
        rows: `Rows` of the shard.
        items: of the shard, those that failed too.
    """
    codes_folder, labels_folder = folders(root, info)
    for folder in (codes_folder, labels_folder):
        folder.mkdir(exist_ok=True)
    arrays: dict[Path, NDArray[Any]] = {}
    for item, group in groupby(range(len(rows)), key=lambda row: rows.items[row]):
        first, *others = group
        codes = np.stack([rows.codes[row] for row in (first, *others)])
        flat = codes.reshape(1, len(codes), -1, *codes.shape[4:])
        arrays[codes_folder / f"{item}.npy"] = flat.astype(np.int64) if info.kind == "tokens" else flat
        arrays[labels_folder / f"{item}.npy"] = np.array([rows.labels[first]], np.int64)
    for path in (path for item in items for path in files(root, info, item) if path not in arrays):
        path.unlink(missing_ok=True)
    with ThreadPoolExecutor(WRITERS) as threads:  # each waits for the disk
        list(threads.map(_save, arrays, arrays.values()))
    for folder in (codes_folder, labels_folder):
        sync_folder(folder)


def _save(path: Path, array: NDArray[Any]) -> None:
    with replacing(path) as fresh:
        np.save(fresh, array, allow_pickle=False)


def files(root: Path, info: CodesInfo, item: int) -> tuple[Path, Path]:
    """Return the files of codes and of the label of an item."""
    codes_folder, labels_folder = folders(root, info)
    return codes_folder / f"{item}.npy", labels_folder / f"{item}.npy"


def delete_from(root: Path, info: CodesInfo, items: int) -> None:
    """Delete the files of items from number `items` on, and what killed runs left: LlamaGen's loader counts files."""
    for folder in folders(root, info):
        for path in folder.glob("*.npy"):
            if TEMPORARY.fullmatch(path.name) or (path.stem.isdecimal() and int(path.stem) >= items):
                path.unlink()


def read(
    root: Path, info: CodesInfo, items: Iterable[int], grid: Grid
) -> tuple[list[NDArray[Any]], list[int], list[int]]:
    """Read items.

    Args:
        root: folder of the encoded data set.
        info: its description.
        items: numbers of the files.
        grid: latent positions (t, h, w) of a row.

    Returns:
        Codes (t, h, w) or (t, h, w, c), labels and items of all rows.

    Raises:
        CodesError: a file is missing or damaged.
    """
    codes_folder, labels_folder = folders(root, info)
    codes: list[NDArray[Any]] = []
    labels: list[int] = []
    numbers: list[int] = []
    for item in items:
        try:
            flat = np.load(codes_folder / f"{item}.npy", allow_pickle=False)[0]
            label = int(np.load(labels_folder / f"{item}.npy", allow_pickle=False)[0])
            parts = list(flat.reshape(len(flat), *grid, *flat.shape[2:]))
        except (OSError, EOFError, ValueError, IndexError) as error:
            raise CodesError(f"Item {item} of {root} is damaged ({error}): tokenize again.") from error
        codes += parts
        labels += [label] * len(parts)
        numbers += [item] * len(parts)
    return codes, labels, numbers
