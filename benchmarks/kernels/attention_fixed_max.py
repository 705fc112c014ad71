"""Attention with a fixed maximum against torch's attention on the same tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks.kernels.operation import Case, Inputs, Operation, delayed, normal, on_grids, uniform
from kernels import EXPONENT_SCALE, attention_fixed_max

BOUND = 27.0  # for scales up to 1.5


@delayed
def _make(generator: torch.Generator, frames: int, positions: int, heads: int = 8, dim: int = 64) -> Inputs:
    """Draw unit vectors times scales, as `attention_inputs` returns them."""
    q, k, v = normal(generator, 3, frames * positions, heads, dim)
    scales = [uniform(generator, dim, low=0.5, high=1.5) for _ in range(2)]
    q, k = (F.normalize(x, dim=-1) * scale for x, scale in zip((q, k), scales, strict=True))
    return {"qkv": torch.stack((EXPONENT_SCALE * q, k, v), dim=1), "positions": positions, "bound": BOUND}


OPERATION = Operation(
    operator=attention_fixed_max,
    checked=(
        Case("1 position", _make(1, 1, 1)),
        Case("3 frames of 35, 4 heads", _make(3, 35, 4)),
        Case("2 frames of 729, 3 heads of 32", _make(2, 729, 3, 32)),
        Case("7 frames of 512", _make(7, 512)),
        Case("image 256, B 1", _make(1, 1024)),
    ),
    timed=on_grids(lambda batch, frames, height, width: _make(batch * frames, height * width)),
    backends=("torch",),
    compilable=("torch",),
    dtypes=("bfloat16",),
)
