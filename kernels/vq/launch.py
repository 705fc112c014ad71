"""Launches of code assignment. Imports triton."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.vq.triton_kernels import codebook_kernel, vq_assign_kernel


@dataclass(frozen=True)
class Tile:
    """Vectors of a program, codes to a group of which one score is kept, and warps."""

    rows: int
    group: int
    warps: int


COLUMNS = 32  # one code for each lane of a warp at a time
TABLE = 256  # codes are padded to a multiple of this
FEW_ROWS = 4096


def choose(rows: int, dim: int) -> Tile:
    """Few vectors are spread over all multiprocessors; many take taller tiles, which read the codes less often.

    Args:
        rows: vectors in all.
        dim: of a code; rows x dim / 4 registers of each thread hold the vectors.
    """
    group = min(8, 64 // dim)
    return Tile(rows=8 if rows <= FEW_ROWS else min(32, 256 // dim), group=group, warps=4)


def assign(z: Tensor, codebook: Tensor, tile: Tile | None = None) -> Tensor:
    """Index of the nearest code, the lowest among equals.

    Args:
        z (Tensor): shape (..., d).
        codebook (Tensor): shape (K, d).
        tile (Tile): instead of the chosen one.

    Returns:
        Tensor: int64, shape (...).
    """
    z, codebook = z.contiguous(), codebook.contiguous()
    codes, dim = codebook.shape
    rows = z.numel() // dim
    out = torch.empty(z.shape[:-1], dtype=torch.int64, device=z.device)
    if rows == 0:
        return out
    padded = -(-codes // TABLE) * TABLE
    table = torch.empty((dim + 1, padded), dtype=torch.float32, device=z.device)
    tile = tile or choose(rows, dim)
    with torch.cuda.device_of(z):
        codebook_kernel[(padded // TABLE,)](codebook, table, codes, padded, D=dim, BLOCK_K=TABLE, num_warps=4)
        vq_assign_kernel[(-(-rows // tile.rows),)](
            z,
            table,
            out,
            rows,
            K=codes,
            PADDED=padded,
            D=dim,
            BLOCK_M=tile.rows,
            BLOCK_K=COLUMNS,
            GROUP=tile.group,
            num_warps=tile.warps,
        )
    return out
