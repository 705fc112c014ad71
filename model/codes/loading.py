"""Encoded data sets for training loops: a torch data set, and one of Hugging Face's `datasets`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from media.kinds import Kind
from model.codes.info import CodesError
from model.codes.reader import check_rows, open_encoded, read_kind, shard_files


class CodesDataset(Dataset[tuple[Tensor, int]]):
    """Rows of one kind in memory: int64 tokens (t, h, w) or float32 latents (t, h, w, c), and the class, -1 for none.

    A million images of 1,024 tokens take 2 GB.

    Args:
        folder: written by `omnitok tokenize`.
        kind: images or clips.

    Attributes:
        info: the description of the data set.
        rows: with keys, views and hashes.

    Raises:
        CodesError: it is incomplete or damaged, or holds nothing of the kind.
    """

    def __init__(self, folder: str | Path, kind: Kind = "images") -> None:
        self.info = open_encoded(Path(folder))
        if not (self.info.rows or {}).get(kind):
            raise CodesError(f"{folder} holds no {kind}, only {' and '.join(self.info.rows or {})}.")
        self.rows = read_kind(Path(folder), self.info, kind)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        codes = self.rows.codes[index]
        wide = codes.astype(np.float32 if codes.dtype.kind == "f" else np.int64)
        return torch.from_numpy(wide), self.rows.labels[index]


def hugging_face(folder: str | Path, kind: Kind = "images") -> Any:
    """Return the shards of one kind as a `datasets.Dataset`, mapped from the disk; arguments as of `CodesDataset`.

    Parquet has the columns `tokens` or `latents`, `label`, `key`, `grid` and more; of tars the columns are the members
    of the samples. The package `datasets` must be installed.

    Raises:
        CodesError: it is incomplete, holds nothing of the kind, or is a tree of `.npy`.
    """
    import datasets

    info = open_encoded(Path(folder))
    files = [str(path) for path in shard_files(Path(folder), info, kind)]
    if not files:
        raise CodesError(f"{folder} holds no shards of {kind} in Parquet or tar.")
    reader = "parquet" if info.container == "parquet" else "webdataset"
    found = datasets.load_dataset(reader, data_files=files, split="train").with_format("numpy")
    check_rows(Path(folder), info, kind, len(found))
    return found
