"""Launches of the adaptive LayerNorm: grid and tiles. Imports triton."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.adaptive_norm.reference import EPS, AdaptiveNormArgs, GatedNormArgs
from kernels.adaptive_norm.triton_kernels import adaptive_norm_kernel
from kernels.autotune.table import ProblemSize, RowTile, TuningSpace, tuned_tile
from kernels.runtime.pdl import pdl_options

SMALL_MAX_ROWS = 4096  # one row a program up to here, to occupy every multiprocessor
SMALL_TILE = RowTile(rows=1, warps=2)
LARGE_TILE = RowTile(rows=2, warps=4)


def choose(rows: int) -> RowTile:
    """Return the default tile for a number of rows."""
    return SMALL_TILE if rows <= SMALL_MAX_ROWS else LARGE_TILE


def adaptive_norm(args: AdaptiveNormArgs) -> Tensor:
    """Run the operator."""
    x, shift, scale = args
    return _run("adaptive_norm", x.contiguous(), None, None, None, shift, scale)


def gated_adaptive_norm(args: GatedNormArgs) -> Tensor:
    """Run the operator."""
    x, y, bias, gate, shift, scale = args
    return _run("gated_adaptive_norm", x, y.contiguous(), bias, _rows(gate), shift, scale)


def _run(
    name: str, x: Tensor, y: Tensor | None, bias: Tensor | None, gate: Tensor | None, shift: Tensor, scale: Tensor
) -> Tensor:
    items, rows, channels = x.shape
    shift, scale = _rows(shift), _rows(scale)
    gate = shift if gate is None else gate
    out = torch.empty(x.shape, dtype=shift.dtype, device=x.device)
    if out.numel():
        tile = tuned_tile(name, shift.dtype, items * rows, choose(items * rows))
        with torch.cuda.device_of(x):
            adaptive_norm_kernel[(-(-rows // tile.rows), items)](
                x, x if y is None else y, shift if bias is None else bias.contiguous(), gate, shift, scale, out, rows,
                gate.stride(0), shift.stride(0), scale.stride(0),
                EPS=EPS, C=channels, PARTS=0 if y is None else len(y), BIASED=bias is not None, ROWS=tile.rows,
                BLOCK_C=1 << (channels - 1).bit_length(), num_warps=tile.warps, **pdl_options(x),
            )  # fmt: skip
    return out


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _draw(size: ProblemSize, dtype: torch.dtype, device: torch.device) -> tuple[GatedNormArgs]:
    x, y = torch.randn((2, size.batch, size.rows // size.batch, size.channels), device=device, dtype=dtype)
    modulation = torch.randn((3, size.batch, size.channels), device=device, dtype=dtype)
    return (GatedNormArgs(x, y[None], None, *modulation),)


CANDIDATES = tuple(RowTile(*numbers) for numbers in ((1, 2), (1, 4), (2, 4), (4, 4), (4, 8)))
TUNING_SPACES = (
    TuningSpace(
        "adaptive_norm",
        CANDIDATES,
        _draw,
        lambda args: adaptive_norm(AdaptiveNormArgs(args.x, args.shift, args.scale)),
    ),
    TuningSpace("gated_adaptive_norm", CANDIDATES, _draw, gated_adaptive_norm),
)
