"""Launches of both ends of a decode step. Imports triton."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.decode_rows.reference import HEADER, ReadArgs, WriteArgs
from kernels.decode_rows.triton_kernels import read_rows_kernel, write_rows_kernel
from kernels.runtime.pdl import pdl_options

BLOCK_C = 512  # channels of a program


def read_rows(args: ReadArgs) -> Tensor:
    """Return the embeddings (R, C) of the newest tokens, and fill the counts."""
    memory, positions, slots, token_table, position_table, counts = args
    rows, channels = len(slots), token_table.shape[1]
    out = torch.empty((rows, channels), dtype=token_table.dtype, device=slots.device)
    if rows:
        with torch.cuda.device_of(memory):
            read_rows_kernel[(-(-channels // BLOCK_C), rows)](
                memory, positions, slots, token_table, position_table, counts, out,
                memory.shape[1], positions.shape[1], rows,
                C=channels, HEADER=HEADER, BLOCK_C=BLOCK_C, num_warps=2, **pdl_options(memory),
            )  # fmt: skip
    return out


def write_rows(args: WriteArgs) -> Tensor:
    """Advance the clocks, store the drawn ids, and return `newest` of each row."""
    memory, slots, drawn = args
    rows = len(slots)
    out = torch.empty_like(slots)
    if rows:
        with torch.cuda.device_of(memory):
            write_rows_kernel[(1,)](
                memory, slots, drawn, out, memory.shape[1], rows,
                HEADER=HEADER, BLOCK_R=1 << (rows - 1).bit_length(), num_warps=1, **pdl_options(memory),
            )  # fmt: skip
    return out
