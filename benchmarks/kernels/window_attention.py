"""Window attention against torch's fused attention with partition, a bias and reversal."""

from __future__ import annotations

import torch

import kernels
from benchmarks.kernels.operation import Case, Inputs, Operation, delayed, normal, on_grids


@delayed
def _make(
    generator: torch.Generator, batch: int, frames: int, height: int, width: int, heads: int = 8, dim: int = 64,
    window: int = 8,
) -> Inputs:  # fmt: skip
    return {
        "qkv": normal(generator, batch, frames, height, width, 3, heads, dim),
        "bias_table": normal(generator, (2 * window - 1) ** 2, heads),
        "window": window,
    }


OPERATION = Operation(
    operator=kernels.window_attention,
    checked=(
        Case("one window", _make(1, 1, 8, 8, heads=1)),
        Case("ragged 9x21", _make(2, 1, 9, 21)),
        Case("smaller than a window, 3x5", _make(1, 2, 3, 5, heads=3, dim=32)),
        Case("head_dim 72, 16x9", _make(1, 1, 16, 9, heads=2, dim=72)),
        Case("windows of 4, 6x10", _make(2, 2, 6, 10, heads=2, dim=16, window=4)),
        Case("windows of 7, 14x9", _make(1, 2, 14, 9, heads=4, dim=32, window=7)),
        Case("clip of 5, 16x24", _make(1, 5, 16, 24, heads=4)),
        Case("image 256, B 4", _make(4, 1, 32, 32)),
    ),
    timed=(
        *on_grids(_make, compiled=("image 256, B 16", "clip 17x256, B 8")),
        Case("demo image 128, B 96", _make(96, 1, 16, 16, heads=4)),
        Case("demo clip 17x128, B 16", _make(16, 5, 16, 16, heads=4)),
        Case("ragged image 216, B 16", _make(16, 1, 27, 27)),
    ),
    backends=("torch",),
    compilable=("torch",),
    gradients=("qkv", "bias_table"),
    full_precision=frozenset({"bias_table"}),
)
