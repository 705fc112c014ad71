"""Data sets of `omnitok tokenize` and `omnitok data codes` as codes to train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from media.kinds import Kind
from model.codes.info import CodesInfo
from model.codes.reader import open_encoded, read_kind
from training.errors import TrainingError
from training.generator.code_set import Codes, CodeSet

MAX_INT16 = 2**15


def open_encoded_codes(folder: Path) -> CodeSet:
    """Open a data set whose shards are all written.

    Raises:
        CodesError: it is incomplete or damaged.
        TrainingError: its items are not squares of one size.
    """
    info = open_encoded(folder)
    kinds = {kind: _codes(folder, info, kind) for kind, count in (info.rows or {}).items() if count}
    options = info.options
    if options.height is None or options.height != options.width:
        size = f"{options.height} x {options.width}"
        raise TrainingError(f"{folder} holds items of {size} pixels: tokenize squares with --size.")
    if not kinds:
        raise TrainingError(f"{folder} holds no rows: all of its items failed.")
    return CodeSet(info, kinds)


def _codes(folder: Path, info: CodesInfo, kind: Kind) -> Codes:
    if info.grid(kind) is None:
        raise TrainingError(f"{folder} holds {kind} of differing sizes: tokenize with --size, and --frames for clips.")
    rows = read_kind(folder, info, kind)
    codes = rows.stacked()
    if codes.dtype.kind != "f":
        codes = codes.astype(np.int16 if info.size <= MAX_INT16 else np.int32)
    return Codes(torch.from_numpy(codes), torch.tensor(rows.labels), torch.tensor(rows.items))
