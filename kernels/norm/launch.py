"""Launches of LayerNorm's kernels: grids and tiles. Imports triton."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.autotune.table import ProblemSize, RowTile, TuningSpace, tuned_tile
from kernels.norm.reference import DeviationArgs, LayerNormArgs
from kernels.norm.triton_kernels import inverse_deviation_kernel, layer_norm_kernel
from kernels.runtime.pdl import pdl_options

SMALL_MAX_ROWS = 4096  # one row a program up to here, to occupy every multiprocessor
SMALL_TILE = RowTile(rows=1, warps=1)
LARGE_TILE = RowTile(rows=4, warps=1)  # sums within one warp avoid shared memory


def choose(rows: int) -> RowTile:
    """Return the default tile for a number of rows."""
    return SMALL_TILE if rows <= SMALL_MAX_ROWS else LARGE_TILE


def inverse_deviation(args: DeviationArgs) -> Tensor:
    """Run the operator."""
    x, channels = args.x.contiguous(), args.x.shape[-1]
    rows = x.numel() // channels
    out = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    if rows:
        tile = tuned_tile("inverse_deviation", x.dtype, rows, choose(rows))
        with torch.cuda.device_of(x):
            inverse_deviation_kernel[(-(-rows // tile.rows),)](
                x,
                out,
                rows,
                args.eps,
                C=channels,
                ROWS=tile.rows,
                BLOCK_C=_block_c(channels),
                num_warps=tile.warps,
                **pdl_options(x),
            )
    return out


def layer_norm(args: LayerNormArgs) -> Tensor:
    """Run the operator."""
    x, weight, bias, eps = args
    x, weight, channels = x.contiguous(), weight.contiguous(), x.shape[-1]
    rows = x.numel() // channels
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if rows:
        tile = tuned_tile("layer_norm", x.dtype, rows, choose(rows))
        with torch.cuda.device_of(x):
            layer_norm_kernel[(-(-rows // tile.rows),)](
                x, weight, weight if bias is None else bias.contiguous(), out, rows, eps,
                C=channels, BIASED=bias is not None, ROWS=tile.rows, BLOCK_C=_block_c(channels), num_warps=tile.warps,
                **pdl_options(x),
            )  # fmt: skip
    return out


def _block_c(channels: int) -> int:
    return 1 << (channels - 1).bit_length()


def _draw(size: ProblemSize, dtype: torch.dtype, device: torch.device) -> tuple[LayerNormArgs]:
    x = torch.randn((size.rows, size.channels), device=device, dtype=dtype)
    return (LayerNormArgs(x, *torch.randn((2, size.channels), device=device, dtype=dtype)),)


CANDIDATES = tuple(RowTile(*numbers) for numbers in ((1, 1), (2, 1), (4, 1), (4, 4), (8, 4), (16, 4)))
TUNING_SPACES = (
    TuningSpace("inverse_deviation", CANDIDATES, _draw, lambda args: inverse_deviation(DeviationArgs(args.x))),
    TuningSpace("layer_norm", CANDIDATES, _draw, layer_norm),
)
