"""Launches of products with few rows: grids and tiles. Imports triton."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.runtime.pdl import pdl_options
from kernels.thin_linear.reference import ThinArgs
from kernels.thin_linear.triton_kernels import normalize_kernel, thin_held_kernel, thin_matrix_kernel


@dataclass(frozen=True)
class Tile:
    """The tile of one program.

    Args:
        rows, columns: of the result; a program that holds its weights takes 16 rows.
        splits: parts of K, each summed by other programs.
        warps: of a program.
        inner, stages: step along K, and stages of its pipeline of loads; 0 to hold the weights in registers.
    """

    rows: int
    columns: int
    splits: int = 1
    warps: int = 4
    inner: int = 0
    stages: int = 0


HELD_ROWS = 16
HELD_MAX_ROWS = 32
HELD_INNER = 1536  # of 16 columns, in 96 registers of each thread of 4 warps
MIN_PROGRAMS = 264  # two on a multiprocessor


def choose(rows: int, columns: int, inner: int) -> Tile:
    """Return the default tile.

    Args:
        rows, columns, inner: R, N and K.
    """
    if rows <= HELD_MAX_ROWS:
        splits = next(n for n in range(1, inner) if inner % (16 * n) == 0 and inner // n <= HELD_INNER)
        wide = -(-columns // 16) * splits >= MIN_PROGRAMS
        return Tile(HELD_ROWS, 16 if wide else 8, splits)
    step = next(step for step in (64, 32, 16) if inner % step == 0)
    splits = next(n for n in (4, 2, 1) if inner % (n * step) == 0) if inner > HELD_INNER else 1
    if rows <= 64 or columns * splits <= 2048:
        return Tile(64, 32, splits, 4, step, 6)
    return Tile(128, 64, splits, 8, step, 5)


def thin_linear(args: ThinArgs, tile: Tile | None = None) -> Tensor:
    """Run the operator."""
    x, weight, bias, residual, scale, normed, gelu, full_precision, counters = args
    x, weight = x.contiguous(), weight.contiguous()
    (rows, inner), columns = x.shape, weight.shape[0]
    out = torch.empty((rows, columns), dtype=torch.float32 if full_precision else x.dtype, device=x.device)
    if not out.numel():
        return out
    tile = tile or choose(rows, columns, inner)
    held = not tile.inner
    row_tiles, tiles = -(-rows // tile.rows), -(-columns // tile.columns)
    partials = counted = out
    if tile.splits > 1:
        parts = row_tiles, tiles, tile.splits, tile.rows, tile.columns
        partials = torch.empty(parts, dtype=torch.float32, device=x.device)
        if counters is None:
            counters = torch.zeros(row_tiles * tiles, dtype=torch.int32, device=x.device)
        counted = counters
    constants: dict[str, Any] = {
        "N": columns,
        "K": inner,
        "SPLITS": tile.splits,
        "BLOCK_N": tile.columns,
        "SCALED": scale is not None,
        "BIASED": bias is not None,
        "ADDED": residual is not None,
        "GELU": gelu,
        "PRECISION": "ieee",
        "num_warps": tile.warps,
        **pdl_options(x),
    }
    others = [x if tensor is None else tensor.contiguous() for tensor in (scale, bias, residual)]
    with torch.cuda.device_of(x):
        # without split sums a program sees whole rows
        if normed and not (held and tile.splits == 1):
            source, x = x, torch.empty_like(x)
            block = 1 << (inner - 1).bit_length()
            normalize_kernel[(rows,)](source, x, K=inner, BLOCK_K=block, num_warps=4, **pdl_options(x))
            normed = False
        if held:
            thin_held_kernel[(tiles * row_tiles, tile.splits)](
                x, weight, *others, out, partials, counted, rows,
                HALF=rows <= HELD_ROWS // 2, WARPS=tile.warps, NORMED=normed, **constants,
            )  # fmt: skip
        else:
            thin_matrix_kernel[(tiles, tile.splits, row_tiles)](
                x, weight, *others, out, partials, counted, rows,
                BLOCK_M=tile.rows, BLOCK_K=tile.inner, STAGES=tile.stages, **constants,
            )  # fmt: skip
    return out
