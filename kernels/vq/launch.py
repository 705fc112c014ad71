"""Launches of code assignment: grids and tiles. Imports triton."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.autotune.table import ProblemSize, TuningSpace, tuned_tile
from kernels.runtime.device import MMA_COLUMNS
from kernels.runtime.pdl import pdl_options
from kernels.vq.triton_kernels import codebook_kernel, merge_kernel, vq_assign_kernel


@dataclass(frozen=True)
class Tile:
    """The tile of one program.

    Args:
        rows: vectors of a program.
        codes: codes of one step of the loop, 128 or 256.
        shares: parts of the codebook, each searched by other programs.
        warps, stages: of a program, and of its pipeline of loads.
        registers: limit for a thread; fewer registers let more programs run on a multiprocessor.
    """

    rows: int
    codes: int
    shares: int
    warps: int
    stages: int
    registers: int = 128


GROUP = 16  # codes that share one running minimum
BLOCK_CODES = MMA_COLUMNS * GROUP
CODE_MULTIPLE = 256  # the widest tile
MERGE_ROWS = 128
SMALL_MAX_ROWS = 4096
SEARCH_CODES = 512  # codes of one step of the exact search
TARGET_PROGRAMS = 256  # two on a multiprocessor: one computes scores while the other takes minima


def inner(dim: int) -> int:
    """Return the products of a score: three a dimension and two for the norm, padded to a power of two."""
    return 1 << (3 * dim + 1).bit_length()


def choose(rows: int, dim: int) -> Tile:
    """Return the default tile; the codebook is split where there are few vectors.

    Args:
        rows: number of vectors.
        dim: of a code; long codes need more registers.
    """
    registers = 128 if dim <= 8 else 224
    shares = 1
    if rows <= SMALL_MAX_ROWS:  # a power of two, since each number of shares compiles a kernel
        shares = min(8, 1 << (-(-TARGET_PROGRAMS * 64 // rows)).bit_length() - 1)
    return Tile(rows=64, codes=128, shares=shares, warps=4, stages=3, registers=registers)


def empty_table(codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Return uninitialised tensors of the shapes that `vq_prepare` returns."""
    codes, dim = codebook.shape
    padded = -(-codes // CODE_MULTIPLE) * CODE_MULTIPLE
    pieces = torch.empty((padded, inner(dim)), dtype=torch.float16, device=codebook.device)
    return pieces, torch.empty((padded // GROUP, dim, GROUP), dtype=torch.float32, device=codebook.device)


def vq_prepare(codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Pack a codebook for `vq_assign`.

    Args:
        codebook (Tensor): shape (K, d).

    Returns:
        Tensor: pieces of the scores, float16, shape (K padded, products).
        Tensor: codes by group, float32, shape (groups, d, GROUP).
    """
    codebook = codebook.contiguous()
    codes, dim = codebook.shape
    pieces, exact = empty_table(codebook)
    with torch.cuda.device_of(codebook):
        codebook_kernel[(pieces.shape[0] // BLOCK_CODES,)](
            codebook, pieces, exact, codes, D=dim, INNER=inner(dim), GROUP=GROUP, num_warps=4
        )
    return pieces, exact


def vq_assign(z: Tensor, pieces: Tensor, exact: Tensor, codes: int) -> Tensor:
    """Return the index of the nearest code; the lowest index wins ties.

    Args:
        z (Tensor): shape (..., d).
        pieces, exact (Tensor): from `vq_prepare`.
        codes (int): K.

    Returns:
        Tensor: int64, shape (...).
    """
    z = z.contiguous()
    dim = z.shape[-1]
    rows = z.numel() // dim
    out = torch.empty(z.shape[:-1], dtype=torch.int64, device=z.device)
    if rows == 0:
        return out
    tile = tuned_tile("vq_assign", z.dtype, rows, choose(rows, dim))
    padded = pieces.shape[0]
    share = -(-padded // (tile.codes * tile.shares)) * tile.codes
    shares = -(-padded // share)
    keys = torch.empty((shares, rows), dtype=torch.int64, device=z.device) if shares > 1 else out
    with torch.cuda.device_of(z):
        vq_assign_kernel[(-(-rows // tile.rows), shares)](
            z,
            pieces,
            exact,
            keys,
            rows,
            K=codes,
            PADDED=padded,
            SHARE=share,
            D=dim,
            INNER=inner(dim),
            GROUP=GROUP,
            BLOCK_M=tile.rows,
            BLOCK_K=tile.codes,
            SEARCH=SEARCH_CODES,
            STAGES=tile.stages,
            num_warps=tile.warps,
            maxnreg=tile.registers,
            **pdl_options(z),
        )
        if shares > 1:
            merge_kernel[(-(-rows // MERGE_ROWS),)](
                keys, out, rows, SHARES=shares, BLOCK_M=MERGE_ROWS, num_warps=4, **pdl_options(z)
            )
    return out


def _draw(size: ProblemSize, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor, int]:
    """Draw float32 vectors, the dtype of the projection's output."""
    z, codebook = (
        torch.nn.functional.normalize(torch.randn((count, size.code_dim), device=device), dim=-1)
        for count in (size.rows, size.codes)
    )
    return z, *vq_prepare(codebook), size.codes


TUNING_SPACES = (
    TuningSpace(
        "vq_assign",
        (
            *(Tile(64, 128, shares, 4, stages) for shares in (1, 2, 4, 8, 16) for stages in (3, 4)),
            *(Tile(64, 256, shares, 4, 3, 224) for shares in (1, 8)),
            *(Tile(128, 128, shares, 8, 3) for shares in (1, 2, 4)),
        ),
        _draw,
        vq_assign,
    ),
)
