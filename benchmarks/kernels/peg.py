"""The positional convolution against the published code: nn.Conv3d with padding and transposes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import kernels
from benchmarks.kernels.operation import Case, Inputs, Operation, delayed, normal, on_grids, uniform


@delayed
def _make(generator: torch.Generator, *shape: int, kind: str = "causal") -> Inputs:
    batch, _, height, width, channels = shape
    return {
        "x": normal(generator, *shape),
        "weight": uniform(generator, 3, 3, 3, channels) * 27**-0.5,
        "bias": uniform(generator, channels),
        "past": normal(generator, batch, 2, height, width, channels) if kind == "carried" else None,
        "causal": kind != "both",
        "order": "published" if kind == "published" else "causal",
    }


def conv3d(
    x: Tensor, weight: Tensor, bias: Tensor, past: Tensor | None, causal: bool, order: str, memory_format: Any = None
) -> Tensor:
    """Run the published code: channels first, padding in time, depthwise Conv3d, channels last, residual."""
    shape = x.shape
    if order == "published":
        x = x.permute(0, 2, 3, 1, 4).reshape(shape)
    before = 2 if causal else 1
    around = F.pad(x.permute(0, 4, 1, 2, 3), (1, 1, 1, 1, before, 2 - before))
    taps = weight.permute(3, 0, 1, 2).unsqueeze(1)
    if memory_format is not None:
        around, taps = (t.contiguous(memory_format=memory_format) for t in (around, taps))
    out = x + F.conv3d(around, taps, bias, groups=shape[-1]).permute(0, 2, 3, 4, 1)
    if order == "published":
        out = out.reshape(shape[0], *shape[2:4], shape[1], shape[4]).permute(0, 3, 1, 2, 4).contiguous()
    return out


def conv3d_channels_last(**inputs: Any) -> Tensor:
    """Run the convolution on channels_last_3d memory, which avoids the transposes."""
    return conv3d(**inputs, memory_format=torch.channels_last_3d)


OPERATION = Operation(
    operator=kernels.peg,
    checked=(
        Case("image 5x7", _make(1, 1, 5, 7, 72)),
        Case("clip of 5, 7x9", _make(2, 5, 7, 9, 72)),
        Case("clip of 3, carried", _make(1, 3, 6, 17, 72, kind="carried")),
        Case("clip of 5, published", _make(2, 5, 6, 7, 72, kind="published")),
        Case("clip of 8, 3x5", _make(2, 8, 3, 5, 72)),
        Case("clip of 9, published", _make(2, 9, 6, 10, 72, kind="published")),
        Case("clip of 3, both sides", _make(1, 3, 9, 5, 72, kind="both")),
        Case("image, both sides", _make(2, 1, 9, 5, 72, kind="both")),
        Case("image, carried", _make(2, 1, 6, 5, 72, kind="carried")),
        Case("image 256, B 4", _make(4, 1, 32, 32, 512)),
        Case("clip 17x128, B 2", _make(2, 5, 16, 16, 512)),
    ),
    timed=(
        *on_grids(lambda *grid: _make(*grid, 512), compiled=("image 256, B 16", "clip 17x256, B 8")),
        Case("clip 17x256, B 8, published", _make(8, 5, 32, 32, 512, kind="published")),
        Case("clip 33x256, B 4", _make(4, 9, 32, 32, 512)),
        Case("clip 33x256, B 4, published", _make(4, 9, 32, 32, 512, kind="published")),
        Case("demo image 128, B 96", _make(96, 1, 16, 16, 256)),
        Case("demo clip 17x128, B 16", _make(16, 5, 16, 16, 256)),
    ),
    baselines={"conv3d": conv3d, "conv3d channels_last": conv3d_channels_last},
    gradients=("x", "weight", "bias", "past"),
    slow_to_compile=True,
)
