"""The kernels of diffusion transformers against torch's attention and LayerNorm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import kernels
from benchmarks.kernels.operation import Case, Inputs, Operation, delayed, normal
from kernels.adaptive_norm.reference import EPS


@delayed
def _sequences(generator: torch.Generator, sequences: int, length: int, heads: int = 16, dim: int = 72) -> Inputs:
    return {"qkv": normal(generator, sequences, length, 3, heads, dim)}


@delayed
def _frames(
    generator: torch.Generator, batch: int, frames: int, positions: int, heads: int = 16, dim: int = 72
) -> Inputs:
    return {"qkv": normal(generator, batch, frames, positions, 3, heads, dim)}


@delayed
def _rows(generator: torch.Generator, items: int, rows: int, channels: int = 1152) -> Inputs:
    modulation = normal(generator, items, 2, channels)
    return {"x": normal(generator, items, rows, channels), "shift": modulation[:, 0], "scale": modulation[:, 1]}


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Run torch's LayerNorm, then scale and shift."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale[:, None]) + shift[:, None]


SEQUENCES = Operation(
    operator=kernels.sequence_attention,
    checked=(
        Case("one position", _sequences(1, 1, heads=1, dim=16)),
        Case("70 positions, head_dim 72", _sequences(2, 70, heads=2)),
        Case("300 positions, head_dim 96", _sequences(1, 300, heads=3, dim=96)),
        Case("130 positions, head_dim 128", _sequences(2, 130, heads=2, dim=128)),
        Case("DiT-XL, B 8, guided", _sequences(16, 256)),
    ),
    timed=(
        Case("DiT-XL, B 1, guided", _sequences(2, 256)),
        Case("DiT-XL, B 8, guided", _sequences(16, 256)),
        Case("Latte-XL, B 1, guided", _sequences(10, 256)),
    ),
    backends=("torch",),
    dtypes=("bfloat16", "float16"),
)

FRAMES = Operation(
    operator=kernels.frame_attention,
    checked=(
        Case("one frame", _frames(1, 1, 3, heads=1, dim=8)),
        Case("8 frames, head_dim 64", _frames(2, 8, 7, heads=3, dim=64)),
        Case("Latte-XL, B 1, guided", _frames(2, 5, 256)),
    ),
    timed=(Case("Latte-XL, B 1, guided", _frames(2, 5, 256)), Case("Latte-XL, B 8, guided", _frames(16, 5, 256))),
    backends=("torch",),
)

ADAPTIVE_NORM = Operation(
    operator=kernels.adaptive_norm,
    checked=(
        Case("one row of 8", _rows(1, 1, 8)),
        Case("3x7 rows of 72", _rows(3, 7, 72)),
        Case("DiT-XL, B 8, guided", _rows(16, 256)),
    ),
    timed=(Case("DiT-XL, B 1, guided", _rows(2, 256)), Case("DiT-XL, B 8, guided", _rows(16, 256))),
    baselines={"F.layer_norm, scale, shift": modulated},
    compilable=("F.layer_norm, scale, shift",),
)
