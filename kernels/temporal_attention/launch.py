"""Launches of temporal attention: grids, strides and tiles. Imports triton."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.autotune.table import ProblemSize, RowTile, TuningSpace, tuned_tile
from kernels.runtime.pdl import pdl_options
from kernels.spatial_attention.reference import LOGIT_SCALE
from kernels.temporal_attention.reference import TemporalArgs
from kernels.temporal_attention.triton_kernels import temporal_attention_bwd_kernel, temporal_attention_fwd_kernel

# each thread holds eight of 64 channels, which avoids spills
FORWARD_TILE = RowTile(rows=8, warps=2)
BACKWARD_TILE = RowTile(rows=8, warps=2)


def forward(args: TemporalArgs) -> Tensor:
    """Run the operator."""
    q, kv, q_scale, k_scale = args[:4]
    tile = tuned_tile("temporal_attention.forward", q.dtype, q.shape[:4].numel(), FORWARD_TILE)
    call = _Call(args, tile)
    out = torch.empty(q.shape, dtype=kv.dtype, device=kv.device)
    if out.numel():
        with torch.cuda.device_of(kv):
            temporal_attention_fwd_kernel[call.grid](
                *call.tensors, q_scale.contiguous(), k_scale.contiguous(), call.slopes, out,
                *call.sizes, **call.constants, num_warps=tile.warps, **pdl_options(kv),
            )  # fmt: skip
    return out


def backward(
    grad: Tensor, args: TemporalArgs, tile: RowTile | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, kv, q_scale, k_scale and past_kv (empty without one) from that of the output."""
    q, kv, q_scale, k_scale, past_kv = args[:5]
    tile = tuned_tile("temporal_attention.backward", q.dtype, q.shape[:4].numel(), BACKWARD_TILE)
    call = _Call(args, tile)
    dq, dkv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, kv))
    dpast = torch.empty((0,) if past_kv is None else past_kv.shape, dtype=kv.dtype, device=kv.device)
    parts = torch.empty((call.grid[0] * call.grid[1], call.block_d), dtype=torch.float32, device=q.device)
    if dq.numel():
        with torch.cuda.device_of(kv):
            temporal_attention_bwd_kernel[call.grid](
                *call.tensors, q_scale.contiguous(), k_scale.contiguous(), call.slopes,
                grad.contiguous(), dq, dkv, dpast, parts, *call.sizes, **call.constants, num_warps=tile.warps,
            )  # fmt: skip
    # of the product of both scales; programs are added in a fixed order, for equal bits at every run
    dweight = parts.sum(0)[: q.shape[-1]] * LOGIT_SCALE
    return dq, dkv, (dweight * k_scale).to(q_scale.dtype), (dweight * q_scale).to(k_scale.dtype), dpast


class _Call:
    """The arguments that both launches share: tensors, the grid, run-time sizes and compile-time constants."""

    def __init__(self, args: TemporalArgs, tile: RowTile) -> None:
        q, kv, _, _, past_kv, causal, window, slopes = args
        batch, frames, height, width, heads, dim = q.shape
        rows = height * width * heads
        q, kv = _regular(q), _regular(kv)
        self.tensors = (q, kv, kv if past_kv is None else _regular(past_kv))
        self.slopes = q if slopes is None else slopes.contiguous()
        self.grid = (-(-rows // tile.rows), batch)
        self.sizes = [rows]
        for x in self.tensors:
            self.sizes += [x.stride(0), x.stride(1), x.stride(3) if width > 1 else x.stride(2)]
        self.block_d = max(16, 1 << (dim - 1).bit_length())
        self.constants = {
            "HEADS": heads,
            "DIM": dim,
            "BLOCK_D": self.block_d,
            "FRAMES": frames,
            "PAST": 0 if past_kv is None else past_kv.shape[1],
            "CAUSAL": causal,
            "WINDOW": window or 0,
            "SLOPED": slopes is not None,
            "LOGIT_SCALE": LOGIT_SCALE,
            "ROWS": tile.rows,
        }


def _regular(x: Tensor) -> Tensor:
    """Return x (B, T, h, w, ..., H, D), copied unless its pixels are evenly spaced and contiguous."""
    height, width, heads, dim = x.shape[2], x.shape[3], x.shape[-2], x.shape[-1]
    run = x.stride(-1) == 1 and (heads == 1 or x.stride(-2) == dim) and (x.ndim == 6 or x.stride(-3) == heads * dim)
    even = height == 1 or width == 1 or x.stride(2) == width * x.stride(3)
    return x if run and even else x.clone(memory_format=torch.contiguous_format)


def _draw(size: ProblemSize, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, TemporalArgs] | None:
    if size.frames == 1:
        return None
    grid, heads = (size.batch, size.frames, size.height, size.width), (size.heads, size.head_dim)
    qkv = torch.randn((*grid, 3, *heads), device=device, dtype=dtype)
    scale = torch.rand(size.head_dim, device=device) + 0.5
    grad = torch.randn((*grid, *heads), device=device, dtype=dtype)
    return grad, TemporalArgs(qkv[..., 0, :, :], qkv[..., 1:, :, :], scale, scale)


TUNING_SPACES = (
    TuningSpace(
        "temporal_attention.forward",
        tuple(RowTile(*numbers) for numbers in ((4, 1), (8, 2), (8, 4), (16, 4), (32, 4), (32, 8))),
        _draw,
        lambda grad, args: forward(args),
    ),
    TuningSpace(
        "temporal_attention.backward",
        tuple(RowTile(*numbers) for numbers in ((4, 2), (8, 2), (8, 4), (16, 4), (16, 8))),
        _draw,
        backward,
    ),
)
