"""Launches of the kernels that prepare queries and keys: grids, strides and tiles. Imports triton."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.autotune.table import ProblemSize, RowTile, TuningSpace, tuned_tile
from kernels.spatial_attention.op import CosineArgs
from kernels.spatial_attention.rope import rope_table
from kernels.spatial_attention.triton_kernels import cosine_bwd_kernel, cosine_fwd_kernel

FORWARD_TILE = RowTile(rows=64, warps=8)
BACKWARD_TILE = RowTile(rows=32, warps=4)


def forward(args: CosineArgs) -> Tensor:
    """Rotate, l2-normalise and scale x (F, N, H, D) as `reference.cosine` does; the result is contiguous."""
    x, scale, cos, sin = args
    tile = tuned_tile("spatial_attention.forward", x.dtype, x.shape[:2].numel(), FORWARD_TILE)
    x = _regular(x)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if out.numel():
        grid, sizes, constants = _geometry(x, cos, tile)
        with torch.cuda.device_of(x):
            cosine_fwd_kernel[grid](
                x, scale.contiguous(), *_tables(x, cos, sin), out, *sizes, **constants, num_warps=tile.warps
            )
    return out


def backward(grad: Tensor, args: CosineArgs) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and scale from that of the result."""
    x, scale, cos, sin = args
    tile = tuned_tile("spatial_attention.backward", x.dtype, x.shape[:2].numel(), BACKWARD_TILE)
    x = _regular(x)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grid, sizes, constants = _geometry(x, cos, tile)
    parts = torch.empty((grid[0] * grid[1], constants["BLOCK_D"]), dtype=torch.float32, device=x.device)
    if dx.numel():
        with torch.cuda.device_of(x):
            cosine_bwd_kernel[grid](
                grad.contiguous(), x, scale.contiguous(), *_tables(x, cos, sin), dx, parts, *sizes, **constants,
                num_warps=tile.warps,
            )  # fmt: skip
    # programs are added in a fixed order, for equal bits at every run
    return dx, parts.sum(0)[: x.shape[-1]].to(scale.dtype)


def _tables(x: Tensor, cos: Tensor | None, sin: Tensor | None) -> tuple[Tensor, Tensor]:
    return (x, x) if cos is None or sin is None else (cos.contiguous(), sin.contiguous())


def _regular(x: Tensor) -> Tensor:
    """Return x (F, N, H, D), copied unless each position is contiguous."""
    heads, dim = x.shape[-2:]
    run = x.stride(-1) == 1 and (heads == 1 or x.stride(-2) == dim)
    return x if run else x.clone(memory_format=torch.contiguous_format)


def _geometry(x: Tensor, cos: Tensor | None, tile: RowTile) -> tuple[tuple[int, int], list[int], dict[str, Any]]:
    """Return the grid (tiles of a frame, frames), run-time sizes and compile-time constants."""
    frames, positions, heads, dim = x.shape
    constants = {
        "HEADS": heads,
        "DIM": dim,
        "BLOCK_D": max(16, 1 << (dim - 1).bit_length()),
        "ROTATED": cos is not None,
        "ROWS": tile.rows,
    }
    return (-(-positions * heads // tile.rows), frames), [positions * heads, x.stride(0), x.stride(1)], constants


def _draw(size: ProblemSize, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, CosineArgs]:
    """Draw keys as a strided view of keys and values, a scale, the rotary tables and a gradient."""
    rows = (size.batch * size.frames, size.height * size.width)
    kv = torch.randn((*rows, 2, size.heads, size.head_dim), device=device, dtype=dtype)
    grad = torch.randn((*rows, size.heads, size.head_dim), device=device, dtype=dtype)
    rope = rope_table(size.height, size.width, size.head_dim, device)
    return grad, CosineArgs(kv[:, :, 0], torch.rand(size.head_dim, device=device) + 0.5, rope.cos, rope.sin)


CANDIDATES = tuple(RowTile(*numbers) for numbers in ((16, 4), (32, 4), (64, 4), (64, 8)))
TUNING_SPACES = (
    TuningSpace("spatial_attention.forward", CANDIDATES, _draw, lambda grad, args: forward(args)),
    TuningSpace("spatial_attention.backward", CANDIDATES, _draw, backward),
)
