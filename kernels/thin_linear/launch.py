"""Launches of products with few rows: grids and tiles. Imports triton."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor  # type: ignore[import-untyped]

from kernels.runtime.device import aligned
from kernels.runtime.pdl import pdl_options
from kernels.thin_linear.reference import ThinArgs
from kernels.thin_linear.triton_kernels import (
    VECTOR,
    normalize_kernel,
    thin_held_kernel,
    thin_matrix_kernel,
    thin_vector_kernel,
)


@dataclass(frozen=True)
class Tile:
    """The tile of one program.

    Args:
        kind: "vector" for the kernel without tensor cores, which takes every row; "held" for weights held in registers
            and 16 rows; "streamed" for weights that pass through shared memory.
        rows, columns: of the result.
        splits: parts of K, each summed by other programs.
        warps: of a program.
        inner, stages: step along K, and stages of its pipeline of loads where weights are streamed.
        swapped: the weight is the left operand of streamed products.
        described: load by tensor descriptors.
        fetched: fetch a streamed weight into the L2 cache ahead of the inputs; not with descriptors.
    """

    kind: str
    rows: int
    columns: int
    splits: int = 1
    warps: int = 4
    inner: int = 128
    stages: int = 4
    swapped: bool = False
    described: bool = False
    fetched: bool = True


VECTOR_MAX_ROWS, HELD_MAX_ROWS = 2, 16
LONG_INNER = 1536  # above it a program has a part of K
WIDE_COLUMNS = 6144  # enough tiles of 64 columns for all multiprocessors
VECTOR_MAX_INNER = 8192  # of 2 columns, in 64 registers of each thread
VECTOR_REGISTERS = 144  # of a thread, so that more programs run on a multiprocessor


def choose(rows: int, columns: int, inner: int) -> Tile:
    """Return the default tile, the fastest of those tried on an H200 for a width of 1536.

    Args:
        rows, columns, inner: R, N and K.
    """
    if rows <= VECTOR_MAX_ROWS and inner <= VECTOR_MAX_INNER:
        warps, width = (4, 2) if inner > LONG_INNER else (1, 4)
        return Tile("vector", rows, width, warps=warps, inner=32 * warps * VECTOR.value)
    if rows <= HELD_MAX_ROWS:
        splits = next(n for n in range(1, inner) if inner % (16 * n) == 0 and inner // n <= LONG_INNER)
        return Tile("held", 16, 16, splits)
    height = 32 if rows <= 32 else 64 if rows <= 64 else 128
    if inner > LONG_INNER:
        tile = {32: (32, 32, 8, 4, 128, 4), 64: (64, 32, 4, 4, 128, 5), 128: (128, 64, 4, 8, 64, 5)}[height]
    elif columns <= 2048:
        tile = {32: (32, 16, 1, 4, 128, 8), 64: (64, 16, 1, 4, 128, 6), 128: (64, 32, 1, 4, 128, 6)}[height]
    else:
        middle = (64, 64, 1, 4, 128, 4) if columns >= WIDE_COLUMNS else (64, 32, 1, 4, 128, 5)
        tile = {32: (32, 64, 1, 4, 128, 6), 64: middle, 128: (128, 64, 1, 8, 64, 5)}[height]
    tall, broad, splits, warps, step, stages = tile
    step = next(size for size in (step, 64, 32, 16) if inner % size == 0)
    splits = next(n for n in range(splits, 0, -1) if inner % (n * step) == 0)
    return Tile("streamed", tall, broad, splits, warps, step, stages)


def choose_with_moments(columns: int, inner: int) -> Tile:
    """Return the default tile of calls with moments, the fastest of those tried on an H200 for 32 rows and width 1536.

    Args:
        columns, inner: N and K.
    """
    splits = 4 if inner > LONG_INNER else 2 if columns <= 2048 else 1
    wide = columns >= WIDE_COLUMNS
    step = next(size for size in (128, 64, 32, 16) if inner % size == 0)
    splits = next(n for n in range(splits, 0, -1) if inner % (n * step) == 0)
    described = splits == 1 and not wide
    return Tile("streamed", 32, 64, splits, 4, step, 4 if wide else 6, True, described, False)


def thin_linear(args: ThinArgs, tile: Tile | None = None) -> Tensor:
    """Run the operator."""
    x, weight, bias, residual, scale, normed, gelu, full_precision, counters, moments = args
    x, weight = x.contiguous(), weight.contiguous()
    (rows, inner), columns = x.shape, weight.shape[0]
    out = torch.empty((rows, columns), dtype=torch.float32 if full_precision else x.dtype, device=x.device)
    if not out.numel():
        return out
    tile = tile or (choose(rows, columns, inner) if moments is None else choose_with_moments(columns, inner))
    row_tiles, tiles = -(-rows // tile.rows), -(-columns // tile.columns)
    partials = counted = out
    if tile.splits > 1:
        parts = row_tiles, tiles, tile.splits, tile.rows, tile.columns
        partials = torch.empty(parts, dtype=torch.float32, device=x.device)
        if counters is None or counters.numel() < row_tiles * tiles:
            counters = torch.zeros(row_tiles * tiles, dtype=torch.int32, device=x.device)
        counted = counters
    constants: dict[str, Any] = {
        "N": columns,
        "K": inner,
        "BLOCK_N": tile.columns,
        "SCALED": scale is not None,
        "BIASED": bias is not None,
        "ADDED": residual is not None,
        "GELU": gelu,
        "num_warps": tile.warps,
        **pdl_options(x),
    }
    others = [x if tensor is None else tensor.contiguous() for tensor in (scale, bias, residual)]
    with torch.cuda.device_of(x):
        if tile.kind == "vector":
            limit = VECTOR_REGISTERS if tile.warps == 1 else None
            thin_vector_kernel[(tiles,)](
                x, weight, *others, out, ROWS=rows, BLOCK_K=tile.inner, NORMED=normed, maxnreg=limit, **constants
            )
            return out
        # without split sums a program sees whole rows
        if normed and moments is None and (tile.kind == "streamed" or tile.splits > 1):
            source, x = x, torch.empty_like(x)
            block = 1 << (inner - 1).bit_length()
            normalize_kernel[(rows,)](source, x, K=inner, BLOCK_K=block, num_warps=4, **pdl_options(x))
            normed = False
        if tile.kind == "held":
            thin_held_kernel[(tiles * row_tiles, tile.splits)](
                x, weight, *others, out, partials, counted, rows,
                HALF=rows <= 8, WARPS=tile.warps, SPLITS=tile.splits, NORMED=normed, PRECISION="ieee", **constants,
            )  # fmt: skip
        else:
            described = tile.described and aligned(x, weight)
            thin_matrix_kernel[(tiles, tile.splits, row_tiles)](
                TensorDescriptor.from_tensor(x, [tile.rows, tile.inner]) if described else x,
                TensorDescriptor.from_tensor(weight, [tile.columns, tile.inner]) if described else weight,
                *others, x if moments is None else moments, out, partials, counted, rows,
                BLOCK_M=tile.rows, BLOCK_K=tile.inner, STAGES=tile.stages, SPLITS=tile.splits, SWAPPED=tile.swapped,
                DESCRIBED=described, FETCHED=tile.fetched and not described, NORMED=normed,
                PARTS=1 if moments is None else moments.shape[1], WRITTEN=residual is not None and moments is not None,
                PRECISION="ieee", **constants,
            )  # fmt: skip
    return out
