"""The head's projection against separate calls, which round between the LayerNorm and the linear layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import kernels
from benchmarks.kernels.operation import Case, Inputs, Operation, delayed, normal, uniform


@delayed
def _make(
    generator: torch.Generator, rows: int, channels: int, dim: int, unit: bool = True, norm: bool = True
) -> Inputs:
    return {
        "x": 2 * normal(generator, rows, channels) + 1,
        "norm_weight": 1 + uniform(generator, channels) / 4 if norm else None,
        "norm_bias": uniform(generator, channels) if norm else None,
        "weight": normal(generator, dim, channels) * channels**-0.5,
        "bias": uniform(generator, dim) / 8,
        "unit": unit,
    }


def separate(
    x: Tensor, norm_weight: Tensor | None, norm_bias: Tensor | None, weight: Tensor, bias: Tensor, unit: bool
) -> Tensor:
    """Run separate library calls, the LayerNorm in the dtype of x."""
    if norm_weight is not None and norm_bias is not None:
        x = F.layer_norm(x, x.shape[-1:], norm_weight.to(x.dtype), norm_bias.to(x.dtype))
    y = F.linear(x.float(), weight, bias)
    return F.normalize(y, dim=-1) if unit else y


OPERATION = Operation(
    operator=kernels.vq_project,
    checked=(
        Case("7 rows, 72 channels to 8", _make(7, 72, 8)),
        Case("333 rows, 512 channels to 16, not unit", _make(333, 512, 16, unit=False)),
        Case("1025 rows, 256 channels to 32, no norm", _make(1025, 256, 32, norm=False)),
        Case("1 row, 512 channels to 5", _make(1, 512, 5)),
    ),
    timed=(
        Case("1,024 rows of 512", _make(1024, 512, 8)),
        Case("16,384 rows of 512", _make(16_384, 512, 8), compiled=True),
        Case("40,960 rows of 512", _make(40_960, 512, 8)),
        Case("65,536 rows of 512", _make(65_536, 512, 8)),
        Case("16,384 rows of 512, moments", _make(16_384, 512, 16, unit=False)),
        Case("16,384 rows of 256", _make(16_384, 256, 8)),
    ),
    baselines={"separate calls": separate},
    full_precision=frozenset({"norm_weight", "norm_bias", "weight", "bias"}),
)
