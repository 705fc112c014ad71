"""LayerNorm and its divisor as custom operators, without backward passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.norm.reference import EPS
from kernels.runtime.custom_op import launch_op
from kernels.runtime.device import triton_unsupported

MAX_CHANNELS = 1024  # a row stays in registers

inverse_deviation = launch_op("inverse_deviation", f"(Tensor x, float eps={EPS}) -> Tensor", "norm.inverse_deviation")
layer_norm = launch_op(
    "layer_norm", f"(Tensor x, Tensor weight, Tensor? bias, float eps={EPS}) -> Tensor", "norm.layer_norm"
)


@inverse_deviation.register_fake
def _(x: Tensor, *args: Any) -> Tensor:
    return torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)


@layer_norm.register_fake
def _(x: Tensor, *args: Any) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def inverse_deviation_unsupported(x: Tensor, eps: float = EPS) -> str | None:
    """Return why the kernel cannot run this call, or None."""
    return _unsupported(x)


def layer_norm_unsupported(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float = EPS) -> str | None:
    """Return why the kernel cannot run this call, or None."""
    return _unsupported(x, weight, bias)


def _unsupported(x: Tensor, *weights: Tensor | None) -> str | None:
    if not 0 < x.shape[-1] <= MAX_CHANNELS:
        return f"C={x.shape[-1]} must be between 1 and {MAX_CHANNELS}"
    return triton_unsupported(x, *weights, differentiable=False)
