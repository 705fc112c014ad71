"""Spatial attention: our kernels prepare queries and keys, torch's fused attention does the rest.

The preparation is a separate operation, compared with float64. The whole is only timed, since torch's attention rounds
queries and keys to bfloat16 and its gradients are not deterministic.
"""

from __future__ import annotations

import torch
from torch import Tensor

import kernels
from benchmarks.kernels.operation import Case, Inputs, Operation, delayed, normal, on_grids, uniform
from kernels.runtime.dispatch import Implementation, Operator
from kernels.spatial_attention import RopeTable, op, reference, rope_table


def cosine(args: op.CosineArgs) -> Tensor:
    """Run the preparation of the reference."""
    rope = None if args.cos is None or args.sin is None else RopeTable(args.cos, args.sin)
    return reference.cosine(args.x, args.scale, rope).to(args.x.dtype)


@delayed
def _make_rows(
    generator: torch.Generator, frames: int, height: int, width: int, heads: int = 8, dim: int = 64,
    rotated: bool = True,
) -> Inputs:  # fmt: skip
    rope = rope_table(height, width, dim, generator.device) if rotated else None
    return {
        "x": normal(generator, frames, height * width, heads, dim),
        "scale": uniform(generator, dim, low=0.5, high=1.5),
        "cos": rope and rope.cos,
        "sin": rope and rope.sin,
    }


@delayed
def _make(generator: torch.Generator, batch: int, frames: int, height: int, width: int, heads: int = 8) -> Inputs:
    return {
        "q": normal(generator, batch, frames, height, width, heads, 64),
        "kv": normal(generator, batch, frames, height, width, 2, heads, 64),
        "q_scale": uniform(generator, 64, low=0.5, high=1.5),
        "k_scale": uniform(generator, 64, low=0.5, high=1.5),
        "rope": rope_table(height, width, 64, generator.device),
    }


COSINE = Operation(
    operator=Operator("cosine", op.CosineArgs, cosine, triton=Implementation.of_op(op.cosine)),
    checked=(
        Case("3x5", _make_rows(2, 3, 5)),
        Case("7x3, 3 heads of 32", _make_rows(1, 7, 3, heads=3, dim=32)),
        Case("5x5, 2 heads of 72", _make_rows(3, 5, 5, heads=2, dim=72)),
        Case("9x7, not rotated", _make_rows(2, 9, 7, rotated=False)),
        Case("16x16", _make_rows(10, 16, 16)),
    ),
    timed=(
        Case("image 256, B 16", _make_rows(16, 32, 32), compiled=True),
        Case("clip 17x256, B 8", _make_rows(40, 32, 32)),
        Case("demo image 128, B 96", _make_rows(96, 16, 16, heads=4)),
    ),
    backends=("reference",),
    gradients=("x", "scale"),
    full_precision=frozenset({"scale", "cos", "sin"}),
)

OPERATION = Operation(
    operator=kernels.spatial_attention,
    checked=(),
    timed=(
        *on_grids(_make),
        Case("demo image 128, B 96", _make(96, 1, 16, 16, heads=4)),
    ),
    backends=("torch",),
    compilable=("torch",),
    gradients=("q", "kv", "q_scale", "k_scale"),
    full_precision=frozenset({"q_scale", "k_scale"}),
)
