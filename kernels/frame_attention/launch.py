"""Launch of attention along frames: grid and tiles. Imports triton."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.autotune.table import ProblemSize, RowTile, TuningSpace, tuned_tile
from kernels.frame_attention.reference import FrameArgs
from kernels.frame_attention.triton_kernels import frame_attention_kernel
from kernels.runtime.pdl import pdl_options

DEFAULT_TILE = RowTile(rows=8, warps=2)


def frame_attention(args: FrameArgs) -> Tensor:
    """Run the operator."""
    qkv = args.qkv.contiguous()
    batch, frames, positions, _, heads, dim = qkv.shape
    out = torch.empty((batch, frames, positions, heads, dim), dtype=qkv.dtype, device=qkv.device)
    if out.numel():
        rows = positions * heads
        tile = tuned_tile("frame_attention", qkv.dtype, batch * frames * positions, DEFAULT_TILE)
        with torch.cuda.device_of(qkv):
            frame_attention_kernel[(-(-rows // tile.rows), batch)](
                qkv, out, rows, SCALE=math.log2(math.e) / math.sqrt(dim), FRAMES=frames, HEADS=heads, DIM=dim,
                BLOCK_D=max(16, 1 << (dim - 1).bit_length()), ROWS=tile.rows, num_warps=tile.warps, **pdl_options(qkv),
            )  # fmt: skip
    return out


def _draw(size: ProblemSize, dtype: torch.dtype, device: torch.device) -> tuple[FrameArgs] | None:
    if size.frames == 1:
        return None
    shape = (size.batch, size.frames, size.height * size.width, 3, size.heads, size.head_dim)
    return (FrameArgs(torch.randn(shape, device=device, dtype=dtype)),)


CANDIDATES = tuple(RowTile(*numbers) for numbers in ((4, 1), (8, 2), (8, 4), (16, 4), (32, 8)))
TUNING_SPACES = (TuningSpace("frame_attention", CANDIDATES, _draw, frame_attention),)
