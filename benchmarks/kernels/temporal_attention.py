"""Temporal attention against torch's fused attention, with positions as batch rows and the necessary transposes."""

from __future__ import annotations

import torch

import kernels
from benchmarks.kernels.operation import Case, Inputs, Operation, delayed, normal, on_grids, uniform


@delayed
def _make(
    generator: torch.Generator, batch: int, frames: int, height: int, width: int, heads: int = 8, dim: int = 64,
    past: int = 0, causal: bool = True, window: int | None = None, sloped: bool = False, merged: bool = False,
) -> Inputs:  # fmt: skip
    qkv = normal(generator, batch, frames, height, width, 3, heads, dim)
    q, kv = qkv[..., 0, :, :], qkv[..., 1:, :, :]
    return {
        "q": q if merged else q.contiguous(),
        "kv": kv if merged else kv.contiguous(),
        "q_scale": uniform(generator, dim, low=0.5, high=1.5),
        "k_scale": uniform(generator, dim, low=0.5, high=1.5),
        "past_kv": normal(generator, batch, past, height, width, 2, heads, dim) if past else None,
        "causal": causal,
        "window": window,
        "slopes": uniform(generator, heads, low=0.0) if sloped else None,
    }


OPERATION = Operation(
    operator=kernels.temporal_attention,
    checked=(
        Case("one frame, 3x5", _make(2, 1, 3, 5)),
        Case("2 frames, 7x3, head_dim 32", _make(1, 2, 7, 3, heads=3, dim=32)),
        Case("3 frames, 5x7, head_dim 72", _make(1, 3, 5, 7, heads=2, dim=72)),
        Case("8 frames, both sides", _make(2, 8, 5, 6, heads=4, causal=False)),
        Case("8 frames, window of 3", _make(1, 8, 9, 5, window=3)),
        Case("5 frames, slopes", _make(2, 5, 6, 7, sloped=True)),
        Case("4 frames after 4, window of 5", _make(2, 4, 6, 7, past=4, window=5)),
        Case("one frame after 3, slopes", _make(2, 1, 6, 7, past=3, sloped=True)),
        Case("5 frames, merged projection", _make(1, 5, 6, 7, merged=True)),
        Case("clip 17x128, B 2", _make(2, 5, 16, 16)),
    ),
    timed=(
        *on_grids(_make, ("clip 17x128, B 8", "clip 17x256, B 8"), compiled=("clip 17x256, B 8",)),
        Case("clip 17x256, B 1", _make(1, 5, 32, 32)),
        Case("clip 17x256, B 16", _make(16, 5, 32, 32)),
        Case("demo clip 17x128, B 16", _make(16, 5, 16, 16, heads=4, window=5), compiled=True),
        Case("demo chunk of 4 after 4, 256", _make(4, 4, 32, 32, heads=4, past=4, window=5)),
    ),
    backends=("torch",),
    compilable=("torch",),
    gradients=("q", "kv", "q_scale", "k_scale", "past_kv"),
    full_precision=frozenset({"q_scale", "k_scale", "slopes"}),
)
